"""Keep cached hidden states on the model's device, in memory, or in a mapped file."""

import errno
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from concept_das.errors import InputError

GIGABYTE = 1024**3

_readable = partial(tqdm.format_sizeof, suffix="B", divisor=1024)

log = logging.getLogger(__name__)


class CacheBudget:
    """Memory that caches may take, on the model's device and beside it.

    Whatever fits in neither goes to a file in `folder`. Without a limit, caches take at most half
    of the memory that is free now.

    Args:
        device: the model's device.
        limit_gb: gigabytes of memory in all; None for half of what is free.
        folder: for mapped files; the system's temporary folder if None.

    Raises:
        InputError: if the limit is negative or the folder does not exist.
    """

    def __init__(
        self, device: torch.device, limit_gb: float | None = None, folder: Path | None = None
    ) -> None:
        if limit_gb is not None and limit_gb < 0:
            raise InputError(f"the cache's limit is {limit_gb} GB; give 0 or more")
        if folder is not None and not folder.is_dir():
            raise InputError(f"there is no folder {folder} for the cache; make it first")
        self.device = device
        self.folder = folder
        self.free: dict[torch.device, int] = {}
        if device.type == "cuda":
            self.free[device] = torch.cuda.mem_get_info(device)[0] // 2
        self.free[torch.device("cpu")] = psutil.virtual_memory().available // 2
        self.limit = sum(self.free.values()) if limit_gb is None else int(limit_gb * GIGABYTE)

    def place(self, size: int) -> torch.device | None:
        """The device nearest the model on which `size` bytes fit; None if only a file is left."""
        for device, free in self.free.items():
            if size <= min(free, self.limit):
                return device
        return None

    def store(self, what: str, lengths: Sequence[int], width: int, dtype: torch.dtype) -> "Store":
        """Make room for entries of `[length, width]`, and log the place.

        Args:
            what: name of the content, for the log.
        """
        total = sum(lengths)
        size = total * width * dtype.itemsize
        device = self.place(size)
        if device is None:
            data = self._mapped(total, width, dtype)
            where = f"a file in {self.folder or tempfile.gettempdir()}"
        else:
            self.free[device] -= size
            self.limit -= size
            data = torch.empty(total, width, dtype=dtype, device=device)
            where = "memory" if device.type == "cpu" else str(device)
        log.info("cache: %s, %s in %s", what, _readable(size), where)
        return Store(data, [0, *accumulate(lengths)], self.device)

    def _mapped(self, total: int, width: int, dtype: torch.dtype) -> Tensor:
        folder = Path(tempfile.mkdtemp(prefix="concept-das-", dir=self.folder))
        path = folder / "states.bin"
        try:
            _reserve(path, total * width * dtype.itemsize)
            flat = torch.from_file(str(path), shared=True, size=total * width, dtype=dtype)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        data = flat.view(total, width)
        weakref.finalize(data, shutil.rmtree, folder, ignore_errors=True)
        return data


@dataclass(frozen=True)
class Store:
    """Entries of different lengths, one after the other.

    Attributes:
        data: `[tokens, width]` of all entries.
        starts: first row of each entry, and one number more for the end of the last.
        device: the device that entries are returned on.
    """

    data: Float[Tensor, "tokens width"]
    starts: list[int]
    device: torch.device

    def put(self, entry: int, values: Float[Tensor, "_ width"]) -> None:
        """Fill an entry."""
        self.data[self.starts[entry] : self.starts[entry + 1]] = values

    def get(self, entry: int) -> Float[Tensor, "_ width"]:
        """An entry, on the device it is wanted on."""
        return self.data[self.starts[entry] : self.starts[entry + 1]].to(self.device)

    def copy_to(self, out: Tensor, entries: Sequence[int], part: slice) -> None:
        """Copy tokens `part` of some entries laid end to end, whatever the precision of `out`."""
        start = 0
        for entry in entries:
            first, length = self.starts[entry], self.starts[entry + 1] - self.starts[entry]
            begin, end = max(part.start - start, 0), min(part.stop - start, length)
            if begin < end:
                where = start - part.start
                out[where + begin : where + end] = self.data[first + begin : first + end]
            start += length


def _reserve(path: Path, size: int) -> None:
    """Make a file that has its space on the disk: a write to a map without space is a SIGBUS.

    Raises:
        InputError: if the disk has no such space.
    """
    with path.open("wb") as file:
        if not size or not hasattr(os, "posix_fallocate"):  # macOS has none
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise type(error)(error.errno, error.strerror, str(path)) from error
            place = path.parent.parent
            free = shutil.disk_usage(place).free
            raise InputError(
                f"the cache of hidden states needs {_readable(size)} in {place}, where "
                f"{_readable(free)} are free; name a larger folder with --cache-folder, or allow "
                "more memory with --cache-gb"
            ) from error
