"""What operator and workers of different versions tell each other while an upgrade is under way."""

import json

from situations import SETTINGS, UID, spec

from trainwright.api.names import CONFIG_FILE
from trainwright.api.worker import WorkerConfig
from trainwright.build import config_map


def test_a_worker_reads_a_config_with_fields_that_it_does_not_know():
    written = config_map("team", "digits", UID, spec(), SETTINGS)["data"][CONFIG_FILE]
    config = json.loads(written)
    assert "rendezvousTimeoutSeconds" not in config, "workers wait as long as it takes"
    older = json.dumps({**config, "rendezvousTimeoutSeconds": 600})
    assert WorkerConfig.model_validate_json(older) == WorkerConfig.model_validate_json(written)
