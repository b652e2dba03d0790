"""Object stores behind URIs, through fsspec. One that does not answer is found out in seconds, before anything waits for it.

Retries and timeouts of the client suit a job that has trained for days: together they take half an hour to give up. So the
first use of a bucket asks for a sign of life, once, with a short timeout.
"""

from functools import cache
from typing import Any, Final

_SIGN_OF_LIFE: Final = {"connect_timeout": 5, "read_timeout": 5, "retries": {"total_max_attempts": 1}}
"""How long the first answer of a store may take, in seconds."""


def open_store(protocol: str, path: str, **options: Any) -> Any:
    """Return the file system of an object store.

    Args:
        protocol: Protocol of its URI, such as s3.
        path: What follows the protocol: the bucket and a key.
        options: Options of the file system.

    Raises:
        ConnectionError: The store does not answer.
        ImportError: The library that knows the protocol is not installed.
    """
    import fsspec  # noqa: PLC0415 - takes a second, and most jobs keep their files in a folder

    system = fsspec.filesystem(protocol, **options)
    if protocol == "s3":
        _expect_answer(path.partition("/")[0])
    return system


@cache
def _expect_answer(bucket: str) -> None:
    """See that the store answers at all; whatever it says of the bucket is for the first real request to tell."""
    import s3fs  # noqa: PLC0415 - see `open_store`
    from botocore import exceptions  # noqa: PLC0415

    probe = s3fs.S3FileSystem(config_kwargs=_SIGN_OF_LIFE, skip_instance_cache=True)
    probe.retries = 1
    try:
        probe.call_s3("head_bucket", Bucket=bucket)
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        message = (
            f"the object store does not answer: {error}; is AWS_ENDPOINT_URL right, and reachable from the workers?"
        )
        raise ConnectionError(message) from error
    except (OSError, exceptions.BotoCoreError, exceptions.ClientError):
        return  # An answer, or nothing that a network could mend.
