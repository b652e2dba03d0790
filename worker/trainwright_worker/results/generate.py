"""Texts that a trained language model writes."""

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
    """Check, before training, that there is something to go on from.

    Raises:
        UserError: The data has no texts, or a prompt has no token.
    """
    if spec is None:
        return
    if tokenizer is None:
        raise UserError("spec.generation: the data of this job has no texts")
    for index, prompt in enumerate(spec.prompts):
        if not tokenizer.encode(prompt):
            raise UserError(f"spec.generation.prompts[{index}]: {prompt!r} holds no token")


def generate(
    spec: GenerationSpec, model: nn.Module, tokenizer: Tokenizer, device: torch.device, log: Callable[[str], None]
) -> tuple[bytes, list[Generated]]:
    """Return generated texts as JSON lines, and the first of them cut short for the status.

    Args:
        spec: Prompts and manner.
        model: The language model, on the device.
        tokenizer: Its tokenizer.
        device: Where the model is.
        log: Says each text.
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
            # A generator per prompt: what follows one does not depend on the others.
            torch.Generator(device).manual_seed(spec.seed + number),
            tokenizer.end,
        )[0].tolist()
        # What stands between two words is only known of the whole text.
        text = tokenizer.decode(ids)[len(tokenizer.decode(begin)) :]
        log(f"generated: {prompt}{text}"[: _PROMPT + _TEXT])
        lines.append(json.dumps({"prompt": prompt, "text": text, "tokens": len(ids) - len(begin)}, ensure_ascii=False))
        if number < SHOWN:
            shown.append(Generated(prompt=prompt[:_PROMPT], text=text[:_TEXT]))
    return ("\n".join(lines) + "\n").encode(), shown
