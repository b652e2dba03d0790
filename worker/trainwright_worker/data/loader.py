"""Yields batches in the order of training, and reads ahead in threads if reading is slow.

It uses threads rather than processes, because the slow work (decoding and scaling images, waiting for S3) releases the
global interpreter lock, nothing has to be pickled, and failures are exceptions with a traceback. The position is the
step: a loader that starts at a step yields the same batches as one that has reached it.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from trainwright_worker.batch import Batch
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Reading, Split

_NETWORK_THREADS: Final = 16
_SPARE: Final = 2
"""Batches read ahead in addition to one per thread, so that threads do not wait for the model."""
_DEVICE_SHARE: Final = 0.25
"""Maximum fraction of a GPU's free memory that the training split may use."""

Request = tuple[Tensor, int | None]
"""Indices of samples, and the epoch in which they are trained on (None for evaluation)."""


class Loader:
    """The batches of this rank in the training split.

    Attributes:
        split: The training split, on the device if it fits.
    """

    def __init__(self, split: Split, sampler: Sampler, device: torch.device) -> None:
        """Prepare; nothing is read before `batches` is called.

        Args:
            split: The training split.
            sampler: Selects the samples of each step.
            device: Device of the batches.
        """
        self.split = _place(split, device)
        self._sampler = sampler
        self._device = device

    def batches(self, step: int) -> Iterator[Batch]:
        """Yield the batch of every step after `step`, on the device, indefinitely.

        Closing the iterator stops its threads.
        """
        return read_ahead(self.split, self._requests(step), self._device)

    def _requests(self, step: int) -> Iterator[Request]:
        while True:
            epoch = step // self._sampler.steps_per_epoch
            where = self.split.inputs.device if isinstance(self.split, Samples) else torch.device("cpu")
            for share in self._sampler.shares(step, where):
                yield share, epoch
                step += 1


def read_ahead(split: Split, requests: Iterator[Request], device: torch.device) -> Iterator[Batch]:
    """Yield the batch of every request in order, on the device.

    Args:
        split: The split to read.
        requests: The samples of each batch; may be infinite.
        device: Device of the batches.
    """
    if split.reading == Reading.INSTANT:
        for indices, epoch in requests:
            yield _pin(split.take(indices, epoch), device).to(device)
        return
    threads = max(_NETWORK_THREADS if split.reading == Reading.NETWORK else 1, torch.get_num_threads())

    def read(indices: Tensor, epoch: int | None) -> Batch:
        return _pin(split.take(indices, epoch), device)

    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for request in itertools.islice(requests, threads + _SPARE):
                waiting.append(pool.submit(read, *request))
            while waiting:
                batch = waiting.popleft().result()
                for request in itertools.islice(requests, 1):
                    waiting.append(pool.submit(read, *request))
                yield batch.to(device)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pin(batch: Batch, device: torch.device) -> Batch:
    """Return the batch in pinned memory for asynchronous copies, unless it is already on the device."""
    if device.type != "cuda" or batch.input.device.type != "cpu":
        return batch
    return batch.map(Tensor.pin_memory)


def _place(split: Split, device: torch.device) -> Split:
    """Move the training split to the GPU if it is small enough, which makes taking batches faster."""
    if device.type != "cuda" or not isinstance(split, Samples):
        return split
    size = split.inputs.numel() * split.inputs.element_size()
    return split.to(device) if size < _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0] else split
