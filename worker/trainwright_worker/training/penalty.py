"""L1 and L2 penalties on the weights, which are added to the loss."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from trainwright.api.spec import RegularizationSpec
from trainwright_worker.distributed.parallel import whole


def make_penalty(spec: RegularizationSpec, parameters: Iterable[nn.Parameter]) -> Callable[[], Tensor] | None:
    """Return a function that computes the L1 and L2 penalties of the current weights, or None if there are none.

    Biases are excluded, because shrinking them costs accuracy and does not reduce overfitting.
    """
    weights = [parameter for parameter in parameters if parameter.dim() > 1 and parameter.requires_grad]
    if not (spec.l1 or spec.l2):
        return None

    def penalty() -> Tensor:
        terms = [spec.l1 * weight.abs().sum() for weight in weights if spec.l1]
        terms += [spec.l2 / 2 * weight.square().sum() for weight in weights if spec.l2]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        # For sharded weights, this adds up the sums of all ranks.
        return whole(total)

    return penalty
