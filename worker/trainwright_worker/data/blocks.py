"""Reads small parts of large remote files in blocks, with a cache of recently used blocks."""

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock
from typing import Final

from trainwright_worker.files import Location

BLOCK_BYTES: Final = 8 << 20
KEPT_BLOCKS: Final = 40
"""Blocks kept per process (320 MiB): more than two of the windows in which samples are shuffled (see sampler.py)."""


class BlockReader:
    """Reads parts of files in whole blocks, so that adjacent parts need only one request. Thread-safe."""

    def __init__(self, block_bytes: int = BLOCK_BYTES, kept: int = KEPT_BLOCKS) -> None:
        self._block_bytes = block_bytes
        self._kept = kept
        self._blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._lock = Lock()

    def read(self, location: Location, begin: int, end: int, size: int) -> bytes:
        """Return the bytes of a file of `size` bytes from `begin` up to `end`."""
        first, last = begin // self._block_bytes, (end - 1) // self._block_bytes
        content = b"".join(self._block(location, number, size) for number in range(first, last + 1))
        return content[begin - first * self._block_bytes : end - first * self._block_bytes]

    def _block(self, location: Location, number: int, size: int) -> bytes:
        key = (location.name, number)
        begin = number * self._block_bytes
        with self._lock:
            found = self._blocks.get(key)
            block = found or Future()
            self._blocks[key] = block
            self._blocks.move_to_end(key)
            while len(self._blocks) > self._kept:
                self._blocks.popitem(last=False)  # Threads that wait for this block keep a reference.
        if found is None:
            try:
                block.set_result(location.read(begin, min(begin + self._block_bytes, size)))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(key, None)  # The next reader tries again.
                block.set_exception(error)
                raise
        return block.result()
