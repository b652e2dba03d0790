"""What former versions have written; see tests/versions/README.md."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "versions"
VERSIONS = sorted(path for path in FOLDER.iterdir() if path.is_dir())


def read(version: Path, name: str) -> Any:
    """Return one of the JSON files of a version."""
    return json.loads((version / name).read_text())
