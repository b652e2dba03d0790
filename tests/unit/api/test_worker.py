"""What operator and workers of different versions tell each other while an upgrade is under way."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from situations import SETTINGS, UID, spec

from trainwright.api.job import read_spec
from trainwright.api.names import CONFIG_FILE
from trainwright.api.worker import WorkerConfig, WorkerReport
from trainwright.build import config_map
from trainwright.manifests import load

EXAMPLES = sorted((Path(__file__).parents[3] / "manifests" / "examples").glob("*.yaml"))


def test_a_worker_reads_a_config_with_fields_that_it_does_not_know():
    written = config_map("team", "digits", UID, spec(), SETTINGS)["data"][CONFIG_FILE]
    config = json.loads(written)
    assert "rendezvousTimeoutSeconds" not in config, "workers wait as long as it takes"
    older = json.dumps({**config, "rendezvousTimeoutSeconds": 600})
    assert WorkerConfig.model_validate_json(older) == WorkerConfig.model_validate_json(written)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_worker_of_a_former_version_knows_what_a_job_asks_for_that_it_could_run(path):
    (job,) = load(path.read_text())
    asked = read_spec(job["spec"])
    text = config_map("team", "digits", UID, asked, SETTINGS)["data"][CONFIG_FILE]
    assert WorkerConfig.model_validate_json(text).spec == asked
    # A field that it does not know, and that nobody has set, would fail the job at its next restart.
    assert set(json.loads(text)["spec"]) <= set(job["spec"])


@pytest.mark.parametrize("field", ["attempt", "sequence", "step", "totalSteps", "samples", "peakMemoryBytes"])
@pytest.mark.parametrize("number", [2**63, -1])
def test_a_report_holds_no_number_that_the_cluster_would_refuse(field, number):
    """It would refuse the whole status with it, and the job would be out of reach of its deadlines."""
    raw = {"uid": "u", "attempt": 1, "launch": "a", "sequence": 1, "phase": "Training", field: 2**63 - 1}
    WorkerReport.model_validate_json(json.dumps(raw))
    with pytest.raises(ValidationError):
        WorkerReport.model_validate_json(json.dumps(raw | {field: number}))
