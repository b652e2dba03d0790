"""The objects to install before an API server accepts TrainingJobs. Install all of them: each validates only a part."""

from typing import Any

from trainwright.api.crd import crd
from trainwright.api.policy import binding, policy


def definitions() -> list[dict[str, Any]]:
    """Return the CustomResourceDefinition, the admission policy for the rules between fields, and the policy's binding."""
    return [crd(), policy(), binding()]
