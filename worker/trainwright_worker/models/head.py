"""The head of a model: the weights of its output layer."""

from torch import nn

from trainwright_worker.models.huggingface import HuggingFaceModel
from trainwright_worker.models.transformer import Transformer


def head_names(model: nn.Module, outputs: int) -> frozenset[str]:
    """Return the names of the head's weights in the state dict; empty if the head shares the embedding's weights.

    Args:
        model: A model of any kind.
        outputs: The model's number of outputs.
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
    """Return whether the output layer has weights of its own, rather than those of the embedding."""
    return not (isinstance(model, Transformer) and model.head is None)
