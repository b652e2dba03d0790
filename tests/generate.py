"""Write every generated file anew: `make generate`."""

import sys
from pathlib import Path

# The tests are no package: this is how they find what they share.
sys.path.insert(0, str(Path(__file__).parent / "support"))

import generated


def main() -> None:
    """Write what has changed, and say so."""
    for name, make in generated.FILES.items():
        path = generated.ROOT / name
        try:
            text = make()
        except FileNotFoundError as error:
            sys.stderr.write(f"{error}\n")
            continue
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
