"""Make Debian's torch, built without libuv, usable with torch's own elastic agent, which asks for libuv by default.

Runs once, while the tests' base image is built; nothing of the product depends on it.
"""

import importlib.util
from pathlib import Path

MARKER = "    from torch._C._distributed_c10d import (\n"
PATCH = '''    import torch._C._distributed_c10d as _c10d

    class _StoreWithoutLibuv(_c10d.TCPStore):
        """Debian builds torch without libuv, yet several callers here ask for it by default."""

        def __init__(self, *args, **kwargs):
            kwargs["use_libuv"] = False
            super().__init__(*args, **kwargs)

    _c10d.TCPStore = _StoreWithoutLibuv

'''

spec = importlib.util.find_spec("torch")
if spec is None or spec.origin is None:
    raise SystemExit("torch is not installed")
path = Path(spec.origin).parent / "distributed" / "__init__.py"
text = path.read_text()
if MARKER not in text:
    raise SystemExit(f"{path} has changed: the place to patch is gone")
if "_StoreWithoutLibuv" not in text:
    path.write_text(text.replace(MARKER, PATCH + MARKER, 1))
