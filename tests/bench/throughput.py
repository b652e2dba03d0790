# ruff: noqa: T201 - a bench prints its table
"""How much of a bare PyTorch loop's speed the worker keeps.

Trains a model two ways in one process, in short blocks that take turns, so that whatever else the machine does slows both
alike: by the worker's own loop, and by a hand-written loop that is as fast as we know. Prints medians of wall-clock and CPU
time per step.

    python tests/bench/throughput.py [--model mlp|cnn|lstm|nanogpt|gpt] [--threads 1] [--blocks 20] [--steps 40]
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from workloads import BATCH, JOBS, BareLoop, WorkerLoop, make_run, use_threads, write_data

from trainwright_worker.distributed.group import keep_freed_memory


def measure(loop: WorkerLoop | BareLoop, steps: int) -> tuple[float, float]:
    """Return wall-clock and CPU seconds per step of one block."""
    wall, cpu = time.perf_counter(), time.process_time()
    loop.block(steps)
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--model", choices=JOBS, default="cnn")
    parser.add_argument("--threads", type=int, default=1, help="with one, CPU time is the whole cost")
    options = parser.parse_args()
    keep_freed_memory()  # as every rank does; both loops profit alike
    use_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name))
        run = make_run(Path(name), options.model)
        loops = {"worker": WorkerLoop(run), "bare": BareLoop(run, options.model)}
        for loop in loops.values():
            loop.block(options.steps)
        times = []
        for number in range(options.blocks):
            order = list(loops) if number % 2 else list(loops)[::-1]
            times.append({name: measure(loops[name], options.steps) for name in order})
    print(
        f"{options.model}, batch {BATCH[options.model]}: {options.blocks} blocks of {options.steps} steps each, in turn"
    )
    print(f"{'':10}{'wall ms/step':>14}{'CPU ms/step':>14}")
    for name in loops:
        wall, cpu = (1000 * statistics.median(block[name][kind] for block in times) for kind in (0, 1))
        print(f"{name:10}{wall:14.3f}{cpu:14.3f}")
    for kind, what in enumerate(("wall", "CPU")):
        ratio = statistics.median(block["bare"][kind] / block["worker"][kind] for block in times)
        print(f"speed kept ({what}): {ratio:.3f}")


if __name__ == "__main__":
    main()
