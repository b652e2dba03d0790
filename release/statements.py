"""Writes what a release states about itself: `make sbom`. See docs/supply-chain.md.

The wheel, one CycloneDX bill of materials for each image, and a provenance statement (in-toto, SLSA v1). All are functions of the
commit: built again from it, they are the same, byte for byte. Nothing is signed here.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
IMAGES: Final = ("operator", "worker")
BUILD_TYPE: Final = "https://trainwright.dev/build-types/make-sbom/v1"
_MATERIALS: Final = (
    "Dockerfile",
    "pyproject.toml",
    "constraints/build.txt",
    "constraints/operator.txt",
    "constraints/worker.txt",
)
_PINNED: Final = re.compile(r"^([a-z0-9][^\\]*?) *\\?$", re.MULTILINE)
_IN_THE_IMAGES: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}
"""The environment for which markers of requirements are evaluated: that of the base images."""


def main() -> None:
    """Write everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--builder", required=True, help="URI of who builds")
    parser.add_argument("images", nargs="*", help="pushed images, as repository@sha256:...")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    built = [build_wheel(asked.output)]
    for image in IMAGES:
        path = asked.output / f"{image}.cdx.json"
        path.write_text(bill_of_materials(image, built[0]), encoding="utf-8")
        built.append(path)
    statement = json.dumps(provenance(built, asked.images, asked.builder), indent=2) + "\n"
    built.append(asked.output / "provenance.intoto.json")
    built[-1].write_text(statement, encoding="utf-8")
    for path in built:
        sys.stdout.write(f"{digest(path)}  {path.name}\n")


def build_wheel(output: Path) -> Path:
    """Build the wheel, with the backend that constraints/build.txt pins, and return its path."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    command = [Path(sys.executable).with_name("uv"), "build", "--quiet", "--wheel", "--python", sys.executable]
    pinned = ["--require-hashes", "--build-constraints", str(ROOT / "constraints" / "build.txt")]
    subprocess.run([*map(str, command), *pinned, "--out-dir", str(output), str(ROOT)], check=True)
    return output / f"trainwright-{version}-py3-none-any.whl"


def bill_of_materials(image: str, wheel: Path) -> str:
    """Return the bill of materials of an image's Python packages, as CycloneDX JSON.

    Raises:
        ValueError: It does not satisfy the schema of CycloneDX.
    """
    version = metadata.version("trainwright")
    contained = Component(name=f"trainwright/{image}", version=version, type=ComponentType.CONTAINER, bom_ref=image)
    ours = _package("trainwright", version)
    ours.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest(wheel)))
    packages = {name: _package(name, pin) for name, pin in pins(image).items()} | {"trainwright": ours}
    bom = Bom(components=packages.values(), serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{revision()}#{image}"))
    bom.metadata.component = contained
    bom.metadata.timestamp = datetime.fromtimestamp(_commit_time(), UTC)
    bom.register_dependency(contained, packages.values())
    for name, package in packages.items():
        bom.register_dependency(package, [packages[needed] for needed in _needs(name) if needed in packages])
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise ValueError(f"{image}: {error}")
    return text + "\n"


def pins(image: str) -> dict[str, str]:
    """Return the versions of the packages that an image installs, by name."""
    lines = _PINNED.findall((ROOT / "constraints" / f"{image}.txt").read_text(encoding="utf-8"))
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in found
        if each.marker is None or each.marker.evaluate(_IN_THE_IMAGES)
    }


def provenance(built: list[Path], images: list[str], builder: str) -> dict[str, Any]:
    """Return the provenance of files and pushed images, as an in-toto statement with the predicate SLSA v1.

    Raises:
        ValueError: An image is not named by its digest.
    """
    subjects = [{"name": path.name, "digest": {"sha256": digest(path)}} for path in built]
    for image in images:
        repository, at, hexadecimal = image.partition("@sha256:")
        if not at or not re.fullmatch("[0-9a-f]{64}", hexadecimal):
            raise ValueError(f"{image}: name an image by its digest, repository@sha256:...")
        subjects.append({"name": repository, "digest": {"sha256": hexadecimal}})
    source = {"name": "source", "digest": {"gitCommit": revision()}, "annotations": {"modified": _is_modified()}}
    materials = [{"name": name, "digest": {"sha256": digest(ROOT / name)}} for name in _MATERIALS]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"images": images},
                "resolvedDependencies": [source, *materials],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def revision() -> str:
    """Return the commit that is checked out."""
    return _git("rev-parse", "HEAD")


def _is_modified() -> bool:
    """Return whether files differ from the commit."""
    return bool(_git("status", "--porcelain"))


def _commit_time() -> int:
    return int(_git("log", "-1", "--format=%ct"))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.strip()


def _package(name: str, version: str) -> Component:
    """Return a Python package. Its license is known from the copy in this environment, where it is always installed too."""
    stated = _license(metadata.metadata(name))
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[LicenseFactory().make_from_string(stated)] if stated else [],
    )


def _license(described: metadata.PackageMetadata) -> str:
    """Return the license that a package states, in the first of the three ways in which packages do; empty if in none."""
    for field in ("License-Expression", "License"):
        stated: str = (described.get_all(field) or [""])[0]
        if stated and "\n" not in stated:
            return stated
    classifiers: list[str] = [each for each in described.get_all("Classifier") or [] if each.startswith("License ::")]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else ""


def _needs(name: str) -> list[str]:
    """Return the packages that a package needs in an image."""
    needed = [Requirement(each) for each in metadata.requires(name) or []]
    applies = {**_IN_THE_IMAGES, "extra": ""}
    return [canonicalize_name(each.name) for each in needed if each.marker is None or each.marker.evaluate(applies)]


if __name__ == "__main__":
    main()
