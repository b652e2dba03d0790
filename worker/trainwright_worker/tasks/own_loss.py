"""A loss that is a function of the user's."""

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from trainwright.api.spec.objective import LossSpec
from trainwright_worker.batch import Batch
from trainwright_worker.errors import UserError
from trainwright_worker.own_code import blame, check_arguments, import_own
from trainwright_worker.tasks.losses import Loss

_FIELD = "spec.loss.function"


def own_loss(spec: LossSpec) -> Loss:
    """Return the loss of a function that maps outputs and targets to one loss per sample.

    Only then do the sum and the count of a batch follow, however it is cut into parts and shared between ranks.

    Args:
        spec: The loss, with the function's import path.

    Raises:
        UserError: The function cannot be imported, or does not take these arguments.
    """
    path, args = str(spec.function), spec.args or {}
    function = import_own(path, _FIELD)
    check_arguments(function, {"outputs": None, "target": None, **args}, path, _FIELD)

    def total(outputs: Tensor, batch: Batch) -> Tensor:
        try:
            losses = function(outputs=outputs, target=batch.target, **args)
        except Exception as error:
            # On tensors without values, code that reads values fails although it is right.
            raise error if isinstance(outputs, FakeTensor) else blame(error, _FIELD, path, "failed") from error
        if not isinstance(losses, Tensor) or losses.shape != (len(batch),):
            found = (
                "x".join(map(str, losses.shape)) or "a scalar" if isinstance(losses, Tensor) else type(losses).__name__
            )
            raise UserError(
                f"{_FIELD}: {path} returned {found} for {len(batch)} samples: return one loss per sample",
                "use reduction='none', and the mean over all dimensions but the first",
            )
        return losses.sum()

    return Loss(total)
