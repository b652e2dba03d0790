"""An object store that cannot be reached is found out at once, with the field that names it."""

import socket

import pytest

from trainwright_worker.errors import UnreachableError
from trainwright_worker.files import place
from trainwright_worker.storage import check_storage, open_storage


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_data_and_checkpoints_name_the_field_and_the_remedy():
    with pytest.raises(UnreachableError, match=r"spec\.dataset\.csv\.path: cannot reach s3://bucket/x\.csv") as data:
        place("s3://bucket/x.csv", "/data", "spec.dataset.csv.path").exists()
    assert "is AWS_ENDPOINT_URL right" in data.value.message
    with pytest.raises(
        UnreachableError, match=r"spec\.checkpoint\.uri: cannot write to s3://bucket/jobs: the object store"
    ):
        check_storage(open_storage("s3://bucket/jobs"), "spec.checkpoint.uri")
