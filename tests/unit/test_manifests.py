"""YAML is read as kubectl reads it, and what is written is read back as it was."""

import pytest
import yaml

from trainwright.manifests import dump, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E4", 50000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("0x10", 16),
        ("010", 8),
        ("1_000", 1000),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("y", True),
        ("N", False),
        ("off", False),
        ("true", True),
        ("~", None),
        ('"1e-3"', "1e-3"),
    ],
)
def test_plain_scalars_mean_what_they_mean_to_kubectl(text, value):
    assert load(f"a: {text}") == [{"a": value}]
    assert type(load(f"a: {text}")[0]["a"]) is type(value)


@pytest.mark.parametrize(
    "text", ["y", "N", "1e-3", "5", "0x1", "1:30", "2026-01-01", "null", "yes", "", " a", "a: b", "#"]
)
def test_text_stays_text(text):
    assert load(dump({"a": text, text: "b"})) == [{"a": text, text: "b"}]


def test_long_and_many_lines():
    document = {"long": "word " * 60 + "end", "lines": "one\ntwo\n", "spaces": "a  b" * 30, "code": "a\n  b\nc"}
    assert load(dump(document)) == [document]


def test_the_same_text_every_time_and_no_anchors():
    shared = {"b": 1}
    assert dump({"z": shared, "a": shared}) == "z:\n  b: 1\na:\n  b: 1\n"


def test_empty_documents_are_left_out():
    assert load("---\n# nothing\n---\na: 1\n---\n") == [{"a": 1}]


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {b: 1, b: 2}", "a: 1\n'a': 2"])
def test_a_key_occurs_once(text):
    with pytest.raises(yaml.YAMLError, match="occurs twice"):
        load(text)


def test_a_merged_key_may_be_overridden():
    assert load("u: &a {p: 1, q: 2}\nv: {<<: *a, p: 3}") == [{"u": {"p": 1, "q": 2}, "v": {"p": 3, "q": 2}}]
