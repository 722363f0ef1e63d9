"""Timing and memory, on the CPU or a GPU."""

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call; CUDA events on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1000


def work_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of work of one call: the processor's, which other programs do not add to.

    On a GPU, the seconds that it takes.
    """
    if device.type != "cpu":
        return seconds_of(call, device)
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_bytes_of(call: Callable[[], object], device: torch.device) -> int:
    """The most that tensors took during a call, beyond what they took before it.

    Counted by torch's own allocations: the process's resident memory also holds what was freed.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    results = recorded.profiler.kineto_results
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    held = peak = 0
    for _when, size in sorted(changes, key=lambda change: change[0]):
        held += size
        peak = max(peak, held)
    return peak


def attainable_gemm(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """Matrix-multiply rate of this machine in FLOP/s: the best of a few large products."""
    a = torch.randn(size, size, dtype=dtype, device=device)
    b = torch.randn(size, size, dtype=dtype, device=device)
    best = min(seconds_of(lambda: a @ b, device) for _ in range(6))
    return 2 * size**3 / best
