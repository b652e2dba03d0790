"""What `make sbom` writes: complete, true, and the same for the same commit."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUSHED = f"registry.example.com/trainwright/operator@sha256:{'0a' * 32}"


def state(output, *images):
    command = [sys.executable, "-W", "error", ROOT / "release" / "statements.py", "--builder", "https://ci.example.com"]
    return subprocess.run(
        [*command, "--output", output, *images], check=False, text=True, capture_output=True, cwd=output.parent
    )


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    output = tmp_path_factory.mktemp("dist") / "first"
    done = state(output, PUSHED)
    assert done.returncode == 0, done.stderr
    return output


def digests(folder):
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_commit_gives_the_same_files(stated, tmp_path):
    assert state(tmp_path / "second", PUSHED).returncode == 0
    assert digests(tmp_path / "second") == digests(stated)
    assert digests(stated).keys() == {
        "trainwright-0.1.0-py3-none-any.whl",
        "operator.cdx.json",
        "worker.cdx.json",
        "provenance.intoto.json",
    }


def test_an_image_contains_the_same_wheel(stated, tmp_path):
    """The images build it from the few files that .dockerignore lets through."""
    for name in ("operator", "worker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    uv = [Path(sys.executable).with_name("uv"), "build", "--quiet", "--wheel", "--python", sys.executable]
    pinned = ["--require-hashes", "--build-constraints", ROOT / "constraints" / "build.txt"]
    subprocess.run([*uv, *pinned, "--out-dir", tmp_path / "dist", tmp_path], check=True)
    wheel = "trainwright-0.1.0-py3-none-any.whl"
    assert digests(tmp_path / "dist")[wheel] == digests(stated)[wheel]


@pytest.mark.parametrize("image", ["operator", "worker"])
def test_a_bill_lists_what_the_image_installs(stated, image):
    bill = json.loads((stated / f"{image}.cdx.json").read_text())
    assert bill["metadata"]["component"]["name"] == f"trainwright/{image}"
    listed = {component["name"]: component for component in bill["components"]}
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+)(.*)\\$", (ROOT / f"constraints/{image}.txt").read_text(), re.MULTILINE)
    plain = {name: version for name, version, marker in pinned if not marker.strip()}
    assert {name: listed[name]["version"] for name in plain} == plain
    assert listed.keys() - {name for name, _, _ in pinned} == {"trainwright"}
    assert "colorama" not in listed, "only Windows needs it"
    assert listed["pydantic"]["purl"] == f"pkg:pypi/pydantic@{plain['pydantic']}"
    assert listed["pydantic"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert listed["trainwright"]["hashes"] == [
        {"alg": "SHA-256", "content": digests(stated)["trainwright-0.1.0-py3-none-any.whl"]}
    ]
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    assert listed["pydantic-core"]["bom-ref"] in needs[listed["pydantic"]["bom-ref"]]
    assert set(needs[image]) == {component["bom-ref"] for component in listed.values()}


def test_the_provenance_names_what_was_built_from_what(stated):
    statement = json.loads((stated / "provenance.intoto.json").read_text())
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert subjects.pop("registry.example.com/trainwright/operator") == "0a" * 32
    assert subjects == {name: value for name, value in digests(stated).items() if not name.startswith("provenance")}
    built = statement["predicate"]["buildDefinition"]
    source, *materials = built["resolvedDependencies"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert source["digest"] == {"gitCommit": head.stdout.strip()}
    for material in materials:
        assert material["digest"]["sha256"] == hashlib.sha256((ROOT / material["name"]).read_bytes()).hexdigest()
    assert {"constraints/operator.txt", "constraints/worker.txt"} <= {material["name"] for material in materials}
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "https://ci.example.com"


def test_an_image_without_its_digest_is_refused(tmp_path):
    done = state(tmp_path / "dist", "registry.example.com/trainwright/operator:0.1.0")
    assert done.returncode != 0
    assert "name an image by its digest" in done.stderr
