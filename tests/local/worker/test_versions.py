"""A worker of this version goes on from a checkpoint of a former one, with the config that the former operator wrote."""

import json
import shutil
from pathlib import Path

import pytest

from trainwright.api.names import CONFIG_FILE
from versions import VERSIONS, read

pytestmark = pytest.mark.local


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_checkpoint_of_a_former_version_is_resumed_from(make_job, version):
    config = json.loads(read(version, "config-map.json")["data"][CONFIG_FILE])
    step = read(version, "running-job.json")["status"]["checkpoints"][-1]["step"]
    config["spec"]["training"]["steps"] = step + 100
    job = make_job(config["spec"])
    shutil.copytree(version / "checkpoint", Path(job.config.job_folder) / "checkpoints" / f"step-{step:08}")
    job.run()
    assert job.reports[-1].resumed_from_step == step
    assert job.reports[-1].step == step + 100
