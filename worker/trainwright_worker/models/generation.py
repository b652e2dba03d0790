"""Text generation with a causal language model, token by token: greedy, or sampled from all or the likeliest tokens."""

from typing import Any

import torch
from torch import Tensor, nn


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompt_ids: Tensor,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    stop: int | None = None,
) -> Tensor:
    """Return the prompts, each followed by the tokens that the model generates.

    Args:
        model: A causal language model that returns logits for every position. Three optional attributes are used:
            `vocabulary` (outputs beyond it are ignored), `context` (maximum sequence length) and `new_cache` (a method
            that returns an empty cache; without it, the model reads the whole text again for every token).
        prompt_ids: Token ids, int64 [batch, length], with at least one token each and without padding.
        max_tokens: Maximum number of tokens to add.
        temperature: 0 always takes the likeliest token; below 1 sharpens the model's distribution, above 1 flattens it.
        top_k: Sample from this many of the likeliest tokens only.
        top_p: Sample from the smallest set of tokens whose probabilities add up to at least this.
        generator: Random generator on the device of the prompts; torch's global one by default.
        stop: Token that ends a text. It is part of the result, and pads a text that ends before the others.

    Returns:
        Token ids, int64 [batch, length + at most max_tokens].
    """
    training = model.training
    model.eval()
    ids, ended = prompt_ids, torch.zeros(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
    reader = _Reader(model)
    for _ in range(max_tokens):
        token = _choose(reader.logits(ids), temperature, top_k, top_p, generator)
        if stop is not None:
            token = token.masked_fill(ended, stop)
            ended |= token == stop
        ids = torch.cat((ids, token.unsqueeze(1)), 1)
        if stop is not None and bool(ended.all()):
            break
    model.train(training)
    return ids


class _Reader:
    """Runs a model over a growing text; with a cache, the model reads each token only once."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._context, self._vocabulary = getattr(model, "context", None), getattr(model, "vocabulary", None)
        self._cache: Any = getattr(model, "new_cache", lambda: None)()
        self._read = 0

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits of the next token, [batch, vocabulary].

        Args:
            ids: Token ids, [batch, length]. With every call, the text of the call before is its beginning.
        """
        if self._context is not None and ids.shape[1] > self._context:
            # When the window moves, every token gets a new position, which invalidates the cache.
            self._cache = None
        if self._cache is None:
            outputs = self._model(ids[:, -(self._context or 0) :])
        else:
            outputs = self._model(ids[:, self._read :], None, self._cache)
            self._read = ids.shape[1]
        last: Tensor = outputs[:, -1, : self._vocabulary].float()
        return last


def _choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """Return one token per row of logits ([batch, vocabulary])."""
    if temperature == 0:
        return logits.argmax(1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, order = logits.softmax(1).sort(1, descending=True)
        # Drop a token if the likelier tokens already reach top_p. This always keeps the likeliest token.
        beyond = ordered.cumsum(1) - ordered >= top_p
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), -torch.inf)
    return torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
