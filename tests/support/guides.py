"""The commands of the documentation, so that tests can run them as a reader would."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_BUILT = Path.home() / ".cache" / "trainwright" / "kind" / "bin"


def commands(page: str, containing: str, replaced: Mapping[str, str] | None = None) -> str:
    """Return the one shell block of a page of docs/ that contains a text, with the page's example values replaced."""
    (block,) = [block for block in _BLOCK.findall((ROOT / "docs" / page).read_text()) if containing in block]
    for example, value in (replaced or {}).items():
        assert example in block, f"{page} does not mention {example}"
        block = block.replace(example, value)
    return block


def lacks(*programs: str) -> list[str]:
    """Return which of these programs this machine does not have."""
    return [program for program in programs if shutil.which(program, path=_path()) is None]


def run(script: str, folder: Path, **environment: str) -> str:
    """Run commands in a folder, end at the first that fails, and return what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": _path(), **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _path() -> str:
    return f"{_BUILT}:{os.environ['PATH']}"
