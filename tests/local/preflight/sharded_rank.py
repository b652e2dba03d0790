"""One of two ranks that share a model: takes a step and prints the bytes that it holds, for the test beside this file.

python sharded_rank.py SPEC RANK FILE   # the spec and the facts as JSON, the rank, and a file through which both meet
"""

import json
import sys
from contextlib import nullcontext
from types import MethodType, SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor

from trainwright.api.job import read_spec
from trainwright_worker.batch import Batch
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import parallelize
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build, draws_layer_by_layer
from trainwright_worker.optim.optimizer import make_optimizer
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.engine import Engine


def held(values):
    """Return the bytes of this rank's part of tensors."""
    parts = [value.to_local() if hasattr(value, "to_local") else value for value in values]
    return sum(part.numel() * part.element_size() for part in parts)


def main():
    raw, (shape, *rest) = json.loads(sys.argv[1])
    spec, facts, rank = read_spec(raw), Facts(tuple(shape), *rest), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
    with torch.device("meta") if draws_layer_by_layer(spec.model) else nullcontext():
        model = build(spec, facts)
    group = SimpleNamespace(rank=rank, size=2, device=torch.device("cpu"))
    group.broadcast_tensors = MethodType(Group.broadcast_tensors, group)
    trained = parallelize(model, spec, group)
    optimizer = make_optimizer(spec.optimizer, model)
    # Between a forward and a backward pass, the model itself has some of them put together.
    parts, loss, between = list(model.parameters()), make_task(spec).loss(facts), []

    def measured(outputs, part):
        between.append(held(weight.grad for weight in parts if weight.grad is not None))
        return loss.total(outputs, part)

    engine = Engine(spec, model, trained, group, Loss(measured, loss.count), None)
    inputs = torch.randint(facts.vocabulary, (4, *facts.shape)) if facts.vocabulary else torch.randn(4, *facts.shape)
    target = torch.zeros((4, *facts.shape) if facts.outputs == facts.vocabulary else 4, dtype=torch.int64)
    engine.accumulate(Batch.of(inputs, target))
    optimizer.step()
    entries = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    found = {
        "weights": held(model.parameters()) + held(model.buffers()),
        "gradients": held(weight.grad for weight in model.parameters()),
        "optimizer": held(entries),
    }
    found["between"] = between[1:]  # before every pass but the first
    print(json.dumps(found))  # noqa: T201 - what the test reads
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
