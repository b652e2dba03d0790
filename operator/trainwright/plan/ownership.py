"""Which release of the operator drives a job. Several may see it: only the one that is named in the status acts.

The first status write names it, before any child is made. If two releases write at once, the API server refuses the second
write, and that release finds the name of the other at its next pass.
"""

from typing import Final

from trainwright.plan.types import Observed

LOOK: Final = 15.0
"""Seconds after which a release that leaves a job alone looks at it again: the release that drives it may be gone."""


def is_of_another(observed: Observed) -> bool:
    """Return whether another release drives the job, and is still there."""
    own, owner = observed.settings.release, observed.job.status.operator
    return own is not None and owner not in ("", own) and not observed.operator_gone
