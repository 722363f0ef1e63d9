"""Write the record: `python -m tests.golden.record [--out FOLDER] [--part NAME]`.

Without `--out` it replaces `expected/`, which is to be done with the code that is to be kept to,
and never to let a failing test pass.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import torch

from tests.golden import benchmark_runs, errors, packaged, saved, settings, tables, training
from tests.golden.files import write_json

EXPECTED = Path(__file__).parent / "expected"

Part = Callable[[Path, Path], None]

PARTS: dict[str, Part] = {
    "help": settings.record_help,
    "settings": settings.record_settings,
    "plans": settings.record_plans,
    "errors": errors.record_errors,
    "methods": training.record_methods,
    "variants": training.record_variants,
    "tables": tables.record_tables,
    "answers": tables.record_answers,
    "exports": tables.record_exports,
    "saved": saved.record_saved,
    "resumed": saved.record_resumed,
    "axbench": benchmark_runs.record_axbench,
    "axbench-whole": benchmark_runs.record_axbench_whole,
    "refusal": benchmark_runs.record_refusal,
    "capabilities": benchmark_runs.record_capabilities,
    "backdoor": benchmark_runs.record_backdoor,
    "organisms": benchmark_runs.record_organisms,
    "smollm2": packaged.record_smollm2,
}
"""Each writes its files into the first folder and may use the second for its work."""

OF_ARGPARSE = ("help", "errors")
"""Parts that quote argparse, whose words and line breaks change with Python's version."""

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

SLOW = ("axbench-whole", "smollm2")
"""Parts that need minutes or the packaged SmolLM2."""


def record(part: str, out: Path, work: Path) -> None:
    """Write one part of the record.

    Args:
        out: a folder that is not there yet.
        work: an empty folder for models and runs.
    """
    torch.manual_seed(0)
    out.mkdir(parents=True)
    with _unchecked():
        PARTS[part](out, work)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Without the tests' type checks, so that a wrong argument meets what it meets at a user's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def main() -> None:
    """Write all parts, or one."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.record")
    parser.add_argument("--out", type=Path, default=EXPECTED, help="folder of the record")
    parser.add_argument("--part", choices=PARTS, help="all but the slow ones if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    chosen = [options.part] if options.part else [name for name in PARTS if name not in SLOW]
    for name in chosen:
        start = time.monotonic()
        folder = options.out / name
        if folder.exists():
            shutil.rmtree(folder)
        with tempfile.TemporaryDirectory() as work:
            record(name, folder, Path(work).resolve())
        write_json(options.out / "python.json", PYTHON)
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
