"""Opens object stores by URI, through fsspec, and notices within seconds if a store does not answer.

The client's retries and timeouts suit a job that has trained for days: it gives up only after half an hour. The first use of a
bucket therefore sends one request with a short timeout.
"""

from functools import cache
from typing import Any, Final

_ONE_SHORT_TRY: Final = {"connect_timeout": 5, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
"""Client options of the first request; times are in seconds."""


def open_store(protocol: str, path: str, **options: Any) -> Any:
    """Return the file system of an object store.

    Args:
        protocol: Protocol of its URI, such as s3.
        path: The rest of the URI: the bucket and a key.
        options: Options of the file system.

    Raises:
        ConnectionError: The store does not answer.
        ImportError: The library for the protocol is not installed.
    """
    import fsspec  # noqa: PLC0415 - takes a second, and most jobs keep their files in a folder

    system = fsspec.filesystem(protocol, **options)
    if protocol == "s3":
        _expect_answer(path.partition("/")[0])
    return system


@cache
def _expect_answer(bucket: str) -> None:
    """Check that the store answers. An error in its answer is left to the first real request."""
    import s3fs  # noqa: PLC0415 - see `open_store`
    from botocore import exceptions  # noqa: PLC0415

    probe = s3fs.S3FileSystem(config_kwargs=_ONE_SHORT_TRY, skip_instance_cache=True)
    probe.retries = 1
    try:
        probe.call_s3("head_bucket", Bucket=bucket)
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        message = (
            f"the object store does not answer: {error}; is AWS_ENDPOINT_URL right, and reachable from the workers?"
        )
        raise ConnectionError(message) from error
    except (OSError, exceptions.BotoCoreError, exceptions.ClientError):
        return  # The store has answered, or the error has nothing to do with the network.
