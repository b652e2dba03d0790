"""What is kept of a manifest: a spec that is too large for an operator is left out, and every other stays whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.api.job import OVERSIZED, SPEC_CHARACTERS, InvalidJobError
from trainwright.cluster.compact import compact
from trainwright.plan.observe import read_job

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)


def job(spec):
    metadata = {"namespace": "team", "name": "digits", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": spec}


@settings(max_examples=20)
@given(JSON)
def test_nothing_is_left_out_that_could_be_accepted(part):
    copies = SPEC_CHARACTERS // (len(json.dumps(part)) + 2)
    spec = {"args": [part] * (copies - 10)}
    assert len(json.dumps(spec)) <= SPEC_CHARACTERS
    assert compact(job(spec))["spec"] == spec


@pytest.mark.parametrize(
    "args", [[{}] * 250_000, {f"a{n}": 1 for n in range(30_000)}, "x" * 200_000, [[]] * 200_000, [0] * 500_000]
)
def test_what_is_too_large_is_not_kept_and_said_so(args):
    kept = compact(job({"model": {"name": "mlp", "args": args}}))
    assert kept["spec"] == OVERSIZED
    with pytest.raises(InvalidJobError, match="longer than 131,072 characters"):
        raise read_job(kept).spec
