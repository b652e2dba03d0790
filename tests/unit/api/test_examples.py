"""The examples: valid, explained, with a command for their data and one to run them, in the index, and each trained by a test."""

import re
import runpy
from pathlib import Path

import pytest

from trainwright.api.job import read_manifest
from trainwright.api.spec.paths import list_paths
from trainwright.manifests import load

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "manifests" / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
NEEDS_NO_DATA = {"builtin", "synthetic"}
PLANNED = {"resnet50-imagenet": "resnet18-imagenet", "resnet152-imagenet": "resnet18-imagenet"}
"""Examples that are too large to train in a test, each with the one that is trained and differs only in its depth."""


def text_of(example):
    return (FOLDER / f"{example}.yaml").read_text()


def manifest_of(example):
    (manifest,) = load(text_of(example))
    return manifest


def header_of(example):
    return text_of(example).split("apiVersion:")[0]


def commands_of(example):
    """Return the commands of a header: its indented lines."""
    return re.findall(r"^#   (\S.*)$", header_of(example), re.MULTILINE)


def runs(command, example):
    """Return whether a command does something with the file of an example."""
    return re.search(rf"(trainwright (run|plan)|kubectl apply -f) manifests/examples/{example}\.yaml\b", command)


def source_of(volume, commands):
    """Return the folder on the user's machine whose content a volume gets; None if no command says so."""
    given = rf"--volume {volume['name']}=(\S+)|kubectl cp (\S+)/\. POD:{volume['mountPath']}/"
    found = re.search(given, "\n".join(commands))
    return found and (found[1] or found[2])


def writes(command, place):
    """Return whether a command makes or downloads something and names where it goes."""
    return re.match(r"(mkdir|curl|python|hf) ", command) and re.search(
        rf"(?<![\w-]){re.escape(place)}(?![\w-])", command
    )


def trained():
    """Return the examples that tests/local/worker/test_examples.py trains."""
    tests = runpy.run_path(str(ROOT / "tests" / "local" / "worker" / "test_examples.py"))
    marks = [
        mark for name, test in tests.items() if name.startswith("test_") for mark in getattr(test, "pytestmark", ())
    ]
    cases = [mark.args for mark in marks if mark.name == "parametrize"]
    return {example for argument, examples in cases if argument in ("example", "teacher") for example in examples}


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_is_valid_and_named_like_its_file(example):
    read_manifest(manifest_of(example))
    assert manifest_of(example)["metadata"] == {"name": example}


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_says_what_it_is_and_how_to_run_it(example):
    lines = header_of(example).splitlines()
    assert lines
    assert all(line.startswith("#") for line in lines)
    assert re.match(r"# \w.*[.:]", lines[0]), "the first line says what it is"
    assert any(runs(command, example) for command in commands_of(example))


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_says_where_to_get_its_data(example):
    spec = read_manifest(manifest_of(example))
    if spec.dataset.source.field in NEEDS_NO_DATA:
        return
    commands = commands_of(example)
    last = max(number for number, command in enumerate(commands) if runs(command, example))
    volumes = manifest_of(example)["spec"]["workers"].get("volumes", ())
    places = [source_of(volume, commands) for volume in volumes] or [path for _, path in list_paths(spec.dataset)]
    assert places
    for place in places:
        assert place, "every volume is given a folder by --volume or kubectl cp"
        assert any(writes(command, place) for command in commands[:last]), f"nothing writes {place}"


def test_the_index_lists_all():
    linked = re.findall(r"\]\(([\w-]+)\.yaml\)", (FOLDER / "README.md").read_text())
    assert sorted(linked) == EXAMPLES


def test_each_is_trained_by_a_test():
    assert trained() | PLANNED.keys() == set(EXAMPLES)


@pytest.mark.parametrize(("example", "smaller"), PLANNED.items())
def test_those_that_are_only_planned_differ_in_depth_from_one_that_is_trained(example, smaller):
    spec, trained_spec = (manifest_of(name)["spec"] for name in (example, smaller))
    spec["training"].pop("microBatchSize", None)
    assert spec.pop("model") != trained_spec.pop("model")
    assert spec == trained_spec
