"""The objects to install before an API server accepts TrainingJobs. Install all of them: each validates only a part."""

from typing import Any

from trainwright.api.crd import class_crd, crd
from trainwright.api.policy import binding, class_binding, class_policy, policy


def definitions() -> list[dict[str, Any]]:
    """Return both CustomResourceDefinitions, and the admission policies with their bindings.

    One policy holds the rules between fields, the other enforces TrainingClasses.
    """
    return [crd(), policy(), binding(), class_crd(), class_policy(), class_binding()]
