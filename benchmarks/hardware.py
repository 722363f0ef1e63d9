"""How fast a machine is: its rates, and the share of them that this project reaches.

A GPU's are the vendor's, without sparsity. This machine's are measured when asked for.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.speed.timing import attainable_gemm, seconds_of
from concept_das.errors import InputError

SPEED_FILE = Path(__file__).parents[1] / "results/speed/speed.json"
"""What `python -m benchmarks.speed` wrote."""

CPU = "cpu"


@dataclass(frozen=True)
class Hardware:
    """A machine's rates.

    Attributes:
        name: as it is asked for.
        flops: matrix products, FLOP/s.
        bandwidth: of memory, bytes/s.
        memory: bytes; None if it is not limited by a card.
        bytes_per_number: of weights and hidden states, at the precision of `flops`.
        source: where the rates are from.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float | None
    bytes_per_number: int
    source: str


def _gpu(name: str, tflops: float, gb_per_second: float, gb: float, source: str) -> Hardware:
    return Hardware(name, tflops * 1e12, gb_per_second * 1e9, gb * 1e9, 2, source)


GPUS: dict[str, Hardware] = {
    gpu.name: gpu
    for gpu in (
        _gpu("A100-80GB", 312, 2039, 80, "NVIDIA's data sheet, A100 80GB SXM, dense bfloat16"),
        _gpu("H100-80GB", 989.4, 3350, 80, "NVIDIA's data sheet, H100 SXM, dense bfloat16"),
        _gpu("L4", 121, 300, 24, "NVIDIA's data sheet, L4, half of its bfloat16 with sparsity"),
        _gpu(
            "RTX-4090",
            165.2,
            1008,
            24,
            "NVIDIA's Ada white paper, RTX 4090, dense bfloat16 with float32 sums",
        ),
    )
}


def find_hardware(name: str) -> Hardware:
    """A GPU by name, or `cpu`: this machine, measured now (about a second).

    Raises:
        InputError: naming the known ones.
    """
    if name == CPU:
        return _this_cpu()
    if name not in GPUS:
        raise InputError(f"unknown hardware {name!r}; choose one of {', '.join([*GPUS, CPU])}")
    return GPUS[name]


def _this_cpu() -> Hardware:
    device = torch.device("cpu")
    flops = attainable_gemm(torch.float32, device)
    numbers = torch.ones(2**25)
    copy = torch.empty_like(numbers)
    best = min(seconds_of(lambda: copy.copy_(numbers), device) for _ in range(5))
    bandwidth = 2 * numbers.nbytes / best
    source = "measured now: a float32 matrix product, and a copy of 128 MiB, read and written"
    return Hardware(CPU, flops, bandwidth, None, 4, source)


@dataclass(frozen=True)
class Share:
    """The part of a machine's rate that the training engine reached.

    Attributes:
        value: above 0, at most 1.
        source: where it was measured.
    """

    value: float
    source: str


def engine_share(path: Path = SPEED_FILE) -> Share:
    """The share of the attainable matrix-product rate that training steps reached.

    Args:
        path: speed.json of `python -m benchmarks.speed`.

    Raises:
        InputError: if it is missing or does not say.
    """
    try:
        record = json.loads(path.read_text())
        value = float(record["gemm_fraction"])
        source = f"{record['cores']} CPU cores, float32, torch {record['torch']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say what share of the machine training reaches; run "
            "python -m benchmarks.speed"
        ) from error
    if not 0 < value <= 1:
        raise InputError(f"gemm_fraction is {value} in {path}; run python -m benchmarks.speed")
    return Share(value, source)
