"""The head of a model: the weights that turn what a body has understood into outputs."""

from torch import nn

from trainwright_worker.models.huggingface import HuggingFaceModel
from trainwright_worker.models.transformer import Transformer


def head_names(model: nn.Module, outputs: int) -> frozenset[str]:
    """Return the names of the head's weights in the model's state; empty for one that shares them with its embedding.

    Args:
        model: A model of any kind.
        outputs: Its number of outputs.
    """
    if isinstance(model, HuggingFaceModel):
        return model.head
    if not _has_own_head(model):
        return frozenset()
    described = getattr(model, "default_cfg", None)
    if described is not None and described.get("classifier"):
        classifier = described["classifier"]
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    else:
        weights = {name: part.weight for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        last = next(reversed(weights), "")
        heads = (last,) if last and len(weights[last]) == outputs else ()
    return frozenset(name for name in model.state_dict() if name.rpartition(".")[0] in heads)


def _has_own_head(model: nn.Module) -> bool:
    """Return whether the last layer is a head, rather than an embedding once more."""
    return not (isinstance(model, Transformer) and model.head is None)
