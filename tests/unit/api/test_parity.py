"""Pydantic's half of the parity between the types, the CRD and its policy; tests/apiserver/test_parity.py asks a real API server."""

import pytest
import yaml

import parity
from trainwright.api.job import read_manifest
from trainwright.manifests import load

CASES = parity.cases()


def mistakes(case):
    """Return what is wrong with a case, by field."""
    try:
        return parity.mistakes(case.manifest if case.text is None else load(case.text)[0])
    except yaml.YAMLError as error:
        return {"": str(error)}


def blames(wrong, field, message):
    return field == wrong or field.startswith((f"{wrong}.", f"{wrong}[")) or (not field and wrong in message)


@pytest.mark.parametrize("case", [case for case in CASES if case.wrong is None], ids=lambda case: case.name)
def test_a_good_manifest_is_accepted(case):
    assert mistakes(case) == {}


@pytest.mark.parametrize("case", [case for case in CASES if case.wrong is not None], ids=lambda case: case.name)
def test_a_bad_manifest_is_refused_and_the_field_named(case):
    found = mistakes(case)
    assert any(blames(case.wrong, field, message) for field, message in found.items()), found
    assert all(found.values())


def test_the_corpus_is_large_and_its_names_are_unlike():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert sum(case.wrong is None for case in CASES) >= 40
    assert sum(case.wrong is not None for case in CASES) >= 120


def test_a_read_spec_is_read_back_as_it_was_written():
    for case in CASES:
        if case.wrong is None and case.text is None:
            spec = read_manifest(case.manifest)
            assert read_manifest(case.manifest | {"spec": spec.to_wire()}) == spec
