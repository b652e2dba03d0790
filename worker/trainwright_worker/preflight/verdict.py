"""Assembles the measurements: the object for the report, and the table for people."""

from typing import Final

from trainwright.api.amounts import bytes_text
from trainwright.api.figures import MemoryUse, Preflight
from trainwright_worker.preflight.advice import Need, Remedy, remedies
from trainwright_worker.preflight.budget import Device, Setup

_NAMES: Final = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "average": "moving average of the weights",
    "saved": "copy for checkpoints",
    "teacher": "weights of the teacher",
    "casts": "weights in half precision",
    "gathered": "gathered blocks (FSDP)",
    "batch": "inputs and targets",
    "activations": "activations",
    "logits": "logits",
}
_MESSAGE: Final = 1024


def judge(need: Need, setup: Setup, device: Device, length: int | None = None) -> tuple[Preflight, list[Remedy]]:
    """Return what a job needs and whether it fits, and the changes that would make it fit.

    Args:
        need: What the job needs.
        setup: The setup of the job.
        device: The device of each process.
        length: Average length of the sequences of a batch; None to assume the maximum length.

    Raises:
        UserError: The model does not fit the data.
        UnmeasurableError: The passes depend on values.
    """
    memory = need.memory(setup)
    fits = device.memory is None or memory.total <= device.memory
    found = [] if fits else remedies(need, setup, device)
    preflight = Preflight(
        parameters=need.weights.parameters,
        trainable=need.weights.trainable,
        memory=memory,
        total_bytes=memory.total,
        available_bytes=device.memory,
        device=device.name[:64],
        flops_per_step=need.flops(setup, length),
        global_batch_size=setup.batch,
        micro_batch_size=setup.micro_batch,
        accumulation=setup.accumulation,
        processes=setup.processes,
        fits=fits,
        message=_message(memory, device, found, fits=fits, parameters=need.weights.parameters),
    )
    return preflight, found


def table(preflight: Preflight) -> list[str]:
    """Return the estimate as lines of a table."""
    frozen = preflight.parameters - preflight.trainable
    batch, most = preflight.global_batch_size, preflight.micro_batch_size
    exact = batch == preflight.processes * preflight.accumulation * most
    parts = f"{preflight.accumulation} pass(es) x {'' if exact else 'up to '}{most} sample(s)"
    rows = [
        ("parameters", count(preflight.parameters) + (f", of which {count(frozen)} are frozen" if frozen else "")),
        ("global batch", f"{batch:,} = {preflight.processes} process(es) x {parts}"),
        ("arithmetic per step", f"{scaled(preflight.flops_per_step)}FLOP"),
    ]
    rows += [(_NAMES[name], bytes_text(value)) for name, value in preflight.memory.model_dump().items() if value]
    available = "" if preflight.available_bytes is None else f" of {bytes_text(preflight.available_bytes)}"
    rows.append(("memory per process", f"{bytes_text(preflight.total_bytes)}{available} ({preflight.device})"))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def count(number: int) -> str:
    """Return a number of parameters in short form: 124.4M."""
    return f"{number:,}" if number < 100_000 else f"{scaled(number).replace('G', 'B').replace(' ', '')}"  # noqa: PLR2004


def scaled(number: float) -> str:
    """Return a number with an SI prefix: `1.23 T`."""
    for prefix, unit in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.4g} {prefix}"
    return f"{number:.4g} "


def _message(memory: MemoryUse, device: Device, found: list[Remedy], *, fits: bool, parameters: int) -> str:
    needs = f"{count(parameters)} parameters need {bytes_text(memory.total)} per process"
    if device.memory is None:
        return needs
    if fits:
        return f"{needs}; {device.name} has {bytes_text(device.memory)}"
    text = f"does not fit: {needs}, but {device.name} has {bytes_text(device.memory)}"
    ways = "; or ".join(f"{remedy.text}: {bytes_text(remedy.bytes)} per process" for remedy in found)
    return (f"{text}. It fits with {ways}" if ways else f"{text}, and no setting of the job makes it fit")[:_MESSAGE]
