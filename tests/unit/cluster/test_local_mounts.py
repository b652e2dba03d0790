"""Dataset paths as a worker finds them on this machine."""

from pathlib import Path

import pytest

from trainwright.api.job import read_spec
from trainwright.build import Settings
from trainwright.build.objects import worker_config
from trainwright.cluster.local.mounts import Folders, localize, named_volumes

VOLUMES = [
    {"name": "all", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "all"}},
    {"name": "deep", "mountPath": "/data/deep", "persistentVolumeClaim": {"claimName": "deep"}},
]


@pytest.mark.parametrize(
    ("path", "volumes", "found", "root"),
    [
        ("x.csv", {}, "x.csv", "/manifest"),
        ("x.csv", {"all": Path("/mine")}, "x.csv", "/mine"),
        ("/data/x.csv", {"all": Path("/mine")}, "/mine/x.csv", "/mine"),
        ("/data/deep/x.csv", {"all": Path("/mine"), "deep": Path("/other")}, "/other/x.csv", "/mine"),
        ("/elsewhere/x.csv", {"all": Path("/mine")}, "/elsewhere/x.csv", "/mine"),
        ("/database/x.csv", {"all": Path("/mine")}, "/database/x.csv", "/mine"),
    ],
)
def test_a_path_in_a_volume_becomes_a_path_in_its_folder(path, volumes, found, root):
    spec = read_spec(
        {
            "model": {"name": "linear"},
            "dataset": {"csv": {"path": path, "target": "y"}},
            "training": {"epochs": 1},
            "workers": {"volumes": VOLUMES},
        }
    )
    config = worker_config("default", "prices", "u", spec, Settings(worker_image="worker"))
    local = localize(config, Folders(Path("/run"), Path("/manifest"), volumes), "prices-0-1")
    assert local.spec.dataset.csv.path == found
    assert local.data_root == root


def test_the_folder_of_a_volume_is_absolute_and_has_no_dots(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert named_volumes(["data=../there", "all=/mine"]) == {"data": tmp_path / "there", "all": Path("/mine")}
