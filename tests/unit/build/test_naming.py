"""A pod's name says which worker it is, and nothing but the very name does."""

import pytest

from trainwright.build.naming import pod_name, read_pod_name


@pytest.mark.parametrize(("job", "index", "attempt"), [("digits", 0, 1), ("a-1-2", 9999, 1000), ("b", 10, 12)])
def test_what_a_name_was_made_of_is_read_from_it(job, index, attempt):
    assert read_pod_name(job, pod_name(job, index, attempt)) == (index, attempt)


@pytest.mark.parametrize(
    "name",
    ["digits", "digits-0", "digits-0-1-copy", "digits-00-1", "digits-0-01", "digits--1-1", "other-0-1", "copy", "0-1"],
)
def test_other_names_are_no_workers(name):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever int or unpacking has to say
        read_pod_name("digits", name)
