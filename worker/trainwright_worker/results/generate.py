"""Generates text with the trained language model."""

import json
from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from trainwright.api.spec import GenerationSpec
from trainwright.api.status import Generated
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.errors import UserError
from trainwright_worker.models import generation

SHOWN: Final = 3
_PROMPT, _TEXT = 256, 512


def check_generation(spec: GenerationSpec | None, tokenizer: Tokenizer | None) -> None:
    """Check before training that the prompts of `spec.generation` can be used.

    Raises:
        UserError: The data has no text, or a prompt has no tokens.
    """
    if spec is None:
        return
    if tokenizer is None:
        raise UserError("spec.generation: the data of this job is not text", "remove spec.generation")
    for index, prompt in enumerate(spec.prompts):
        if not tokenizer.encode(prompt):
            raise UserError(f"spec.generation.prompts[{index}]: {prompt!r} has no tokens", "use a longer prompt")


def generate(
    spec: GenerationSpec, model: nn.Module, tokenizer: Tokenizer, device: torch.device, log: Callable[[str], None]
) -> tuple[bytes, list[Generated]]:
    """Return the generated texts as JSON lines, and the first few of them, truncated, for the status.

    Args:
        spec: Prompts and sampling parameters.
        model: The language model, on the device.
        tokenizer: The tokenizer of the model.
        device: Device of the model.
        log: Writes a line to the log.
    """
    lines, shown = [], []
    for number, prompt in enumerate(spec.prompts):
        begin = tokenizer.encode(prompt)
        ids = generation.generate(
            model,
            torch.tensor([begin], device=device),
            spec.max_tokens,
            spec.temperature,
            spec.top_k,
            spec.top_p,
            # One generator per prompt, so that a text does not depend on the other prompts.
            torch.Generator(device).manual_seed(spec.seed + number),
            tokenizer.end,
        )[0].tolist()
        # Decode the whole text, because spaces between tokens depend on their neighbours.
        text = tokenizer.decode(ids)[len(tokenizer.decode(begin)) :]
        log(f"generated: {prompt}{text}"[: _PROMPT + _TEXT])
        lines.append(json.dumps({"prompt": prompt, "text": text, "tokens": len(ids) - len(begin)}, ensure_ascii=False))
        if number < SHOWN:
            shown.append(Generated(prompt=prompt[:_PROMPT], text=text[:_TEXT]))
    return ("\n".join(lines) + "\n").encode(), shown
