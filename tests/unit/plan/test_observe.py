"""Manifests as a cluster holds them, read."""

import pytest

from trainwright.api.job import InvalidJobError
from trainwright.plan.observe import read_job

META = {"namespace": "team", "name": "digits", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(("asked", "read"), [(100, 100), ("soon", None), (None, None)])
def test_the_time_to_live_is_known_even_if_the_rest_is_not(asked, read):
    job = read_job({"metadata": META, "spec": {"modle": {}, "ttlSecondsAfterFinished": asked}})
    assert isinstance(job.spec, InvalidJobError)
    assert job.time_to_live == read
    assert read_job({"metadata": META}).time_to_live is None
