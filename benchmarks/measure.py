"""Timing and memory, on the CPU or a GPU."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True)
class Cost:
    """What one call took.

    Attributes:
        seconds: wall time; CUDA events on a GPU.
        peak_bytes: largest growth of memory during the call.
    """

    seconds: float
    peak_bytes: int


class _PeakResidentMemory:
    """Samples the process's resident memory from a thread."""

    def __init__(self, interval: float = 0.002) -> None:
        self.interval = interval
        self.process = psutil.Process()

    def __enter__(self) -> "_PeakResidentMemory":
        self.start = self.peak = self.process.memory_info().rss
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def _sample(self) -> None:
        while not self.stop.wait(self.interval):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def cost_of(call: Callable[[], object], device: torch.device) -> Cost:
    """Run once and measure."""
    if device.type != "cuda":
        with _PeakResidentMemory() as memory:
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        return Cost(seconds, memory.peak - memory.start)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    return Cost(begin.elapsed_time(end) / 1000, peak)


def attainable_gemm(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """Matrix-multiply rate of this machine in FLOP/s: the best of a few large products."""
    a = torch.randn(size, size, dtype=dtype, device=device)
    b = torch.randn(size, size, dtype=dtype, device=device)
    best = min(cost_of(lambda: a @ b, device).seconds for _ in range(6))
    return 2 * size**3 / best
