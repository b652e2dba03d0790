"""What the kind tests say to the cluster: thin, typed wrappers around kubectl and helm.

Owns no knowledge of Trainwright's objects; the tests spell those out.
"""

import contextlib
import fcntl
import functools
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "tests" / "kind" / "cluster"


class CommandError(AssertionError):
    """A command failed; the message holds what it said."""


@functools.cache
def environment() -> dict[str, str]:
    """The environment that reaches the cluster, as `cluster/env` prints it."""
    exports = subprocess.run([CLUSTER / "env"], check=True, text=True, stdout=subprocess.PIPE).stdout
    script = f"{exports}\nexec env -0"
    listing = subprocess.run(["bash", "-c", script], check=True, text=True, stdout=subprocess.PIPE).stdout
    return dict(line.split("=", 1) for line in listing.split("\0") if "=" in line)


def run(*command: str | Path, stdin: str | None = None, timeout: float = 120) -> str:
    """Run a command in the cluster's environment and return what it prints."""
    words = shlex.join(map(str, command))
    try:
        done = subprocess.run(
            command, input=stdin, text=True, capture_output=True, timeout=timeout, env=environment(), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{words} did not end within {timeout:g} s") from error
    if done.returncode:
        raise CommandError(f"{words} exited {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def kubectl(*args: str, stdin: str | None = None, timeout: float = 120) -> str:
    """`kubectl ARGS`; raises CommandError with kubectl's own words."""
    return run("kubectl", *args, stdin=stdin, timeout=timeout)


def kubectl_json(*args: str) -> Any:
    """`kubectl ARGS -o json`, parsed."""
    return json.loads(kubectl(*args, "--output=json"))


def apply(manifest: str | dict[str, Any], namespace: str | None = None) -> str:
    """Apply YAML text or one object."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    return kubectl("apply", "--filename=-", *([f"--namespace={namespace}"] if namespace else []), stdin=text)


def helm(*args: str, timeout: float = 300) -> str:
    """`helm ARGS`."""
    return run("helm", *args, timeout=timeout)


def wait_until(predicate: Callable[[], T], timeout: float, describe: Callable[[], object]) -> T:
    """Poll until the predicate returns something true and return that; at the deadline raise with what is described.

    A predicate that raises CommandError counts as false: objects may not exist yet.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            error: CommandError | None = None
            if result := predicate():
                return result
        except CommandError as e:
            error = e
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s; last seen: {error or describe()}")
        time.sleep(0.25)


def dump(namespace: str | None = None) -> str:
    """Everything worth reading after a failure."""
    command: list[str | Path] = [CLUSTER / "dump", *([namespace] if namespace else [])]
    return subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False
    ).stdout


def shared_folder() -> Path:
    """The folder on this machine that every worker node has as /shared."""
    return Path(environment()["TRAINWRIGHT_SHARED"])


def is_temporary() -> bool:
    """Return whether the cluster was made for tests, which then delete it: `cluster/up --temporary` did that."""
    return Path(environment()["KUBECONFIG"]).with_suffix(".temporary").exists()


@contextlib.contextmanager
def in_use(*, alone: bool) -> Iterator[None]:
    """Have the use of the cluster, with all others who do not need it alone, in whichever process they are."""
    with Path(environment()["KUBECONFIG"]).with_suffix(".use").open("a") as use:
        fcntl.flock(use, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
