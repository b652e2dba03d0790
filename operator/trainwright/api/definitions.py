"""What an API server has to be told before it takes TrainingJobs: always all of it, since a part alone judges too little."""

from typing import Any

from trainwright.api.crd import crd
from trainwright.api.policy import binding, policy


def definitions() -> list[dict[str, Any]]:
    """Return the CustomResourceDefinition, the policy for what it cannot say cheaply, and what puts that in force."""
    return [crd(), policy(), binding()]
