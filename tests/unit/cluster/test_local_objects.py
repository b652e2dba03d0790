"""What an API server promises of objects, kept in memory too."""

import pytest

from trainwright.cluster.local.objects import Objects
from trainwright.cluster.port import AlreadyExistsError, ConflictError, NotFoundError


def a_job(**spec):
    return {"kind": "TrainingJob", "metadata": {"name": "digits"}, "spec": spec}


def test_a_new_object_gets_an_identity_of_its_own():
    objects = Objects()
    first = objects.add(a_job())
    objects.remove(first)
    second = objects.add(a_job())
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert second["metadata"]["namespace"] == "default"
    assert second["metadata"]["generation"] == 1


def test_a_name_exists_once():
    objects = Objects()
    objects.add(a_job())
    with pytest.raises(AlreadyExistsError):
        objects.add(a_job())


def test_a_restored_object_keeps_its_uid():
    restored = Objects().add({**a_job(), "metadata": {"name": "digits", "uid": "u", "generation": 3}}, restored=True)
    assert (restored["metadata"]["uid"], restored["metadata"]["generation"]) == ("u", 3)


def test_an_api_server_does_not_let_a_user_choose_the_uid():
    assert Objects().add({**a_job(), "metadata": {"name": "digits", "uid": "u"}})["metadata"]["uid"] != "u"


def test_only_the_spec_counts_as_a_new_generation():
    objects = Objects()
    job = objects.add(a_job())
    with_status = objects.replace({**job, "status": {"phase": "Running"}})
    assert with_status["metadata"]["generation"] == 1
    suspended = objects.replace({**with_status, "spec": {"suspend": True}})
    assert suspended["metadata"]["generation"] == 2


def test_a_stale_write_is_refused():
    objects = Objects()
    job = objects.add(a_job())
    objects.replace({**job, "status": {"phase": "Running"}})
    with pytest.raises(ConflictError):
        objects.replace({**job, "status": {"phase": "Failed"}})


def test_writing_what_is_there_changes_nothing():
    objects = Objects()
    job = objects.add(a_job())
    assert objects.replace(job) == job


def test_a_write_to_a_successor_of_the_same_name_is_refused():
    objects = Objects()
    old = objects.add(a_job())
    objects.remove(old)
    objects.add(a_job())
    with pytest.raises(NotFoundError):
        objects.replace(old)


def test_what_is_returned_is_a_copy():
    objects = Objects()
    job = objects.add(a_job(suspend=False))
    job["spec"]["suspend"] = True
    assert objects.get(("TrainingJob", "default", "digits"))["spec"] == {"suspend": False}
