"""`python -m benchmarks.speed.serving`: vLLM's answers per second, steered and not.

It runs where vLLM is installed beside this package. Prompts take turns between eight vectors, each
at eight blocks, and none; the same prompts also go through an engine that was started without
vectors. The two alternate in one process, so that a busy machine slows both alike; processor time
depends on it least. Writes `serving.json`.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from concept_das.cli.parser import run_command
from concept_das.data.chat_format import ChatFormat
from concept_das.data.shipped import shipped_instructions
from concept_das.models.packaged import packaged_model
from concept_das.runs.files import write_atomically
from concept_das.serving.catalogue import engine_arguments
from concept_das.serving.request import SteeringRequest
from concept_das.steering.vector import SteeringVector
from interventions import orthonormal_rows

VECTORS = 8


def serving(
    prompts: int = 64,
    new_tokens: int = 64,
    repeats: int = 3,
    compiled: bool = False,
    out: Path = Path("results/speed"),
) -> None:
    """Answers per second of vLLM, steered and not.

    Args:
        prompts: number of prompts, answered together.
        new_tokens: tokens of an answer.
        repeats: calls timed of each engine.
        compiled: let vLLM compile the model.
        out: folder for the results.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # both engines in this process
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm

    with tempfile.TemporaryDirectory() as scratch:
        engines = {
            "steered": engine(engine_arguments(random_vectors(Path(scratch))), compiled),
            "unsteered": engine({}, compiled),
        }
    chat = ChatFormat.of(engines["steered"].get_tokenizer())
    asked = [chat.prompt(text).ids for text in shipped_instructions(prompts, seed=0)]
    entries = [None, *(SteeringRequest(str(i)) for i in range(VECTORS))]
    given = [{"prompt_token_ids": list(ids)} for ids in asked]
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    processor: dict[str, list[float]] = {name: [] for name in engines}
    for repeat in range(repeats + 1):
        for name, llm in engines.items():
            parameters = [
                vllm.SamplingParams(
                    temperature=0,
                    max_tokens=new_tokens if repeat > 0 else 4,  # the first warms up
                    ignore_eos=True,
                    extra_args=None
                    if name == "unsteered" or (entry := entries[i % len(entries)]) is None
                    else entry.extra_args(),
                )
                for i in range(prompts)
            ]
            start, used = time.perf_counter(), time.process_time()
            llm.generate(given, parameters, use_tqdm=False)
            took, used = time.perf_counter() - start, time.process_time() - used
            if repeat > 0:
                seconds[name].append(took)
                processor[name].append(used)
            print(f"{name}: {took:.1f} s, {used:.1f} s of processor time", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    used_by = {name: statistics.median(values) for name, values in processor.items()}
    figures = {
        "vllm_steered_vs_unsteered_seconds": medians["unsteered"] / medians["steered"],
        "vllm_steered_vs_unsteered_processor_seconds": used_by["unsteered"] / used_by["steered"],
        **{f"tokens_per_second_{n}": prompts * new_tokens / m for n, m in medians.items()},
        **{f"seconds_{name}": values for name, values in seconds.items()},
        **{f"processor_seconds_{name}": values for name, values in processor.items()},
        "prompts": prompts,
        "new_tokens": new_tokens,
        "vectors": VECTORS,
        "compiled": compiled,
        "command": f"python -m benchmarks.speed.serving --repeats {repeats}"
        + " --compiled true" * compiled,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[1],
        "vllm": vllm.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(figures, indent=2))
    name = "serving-compiled.json" if compiled else "serving.json"
    write_atomically(out / name, json.dumps(figures, indent=2).encode())


def random_vectors(folder: Path) -> dict[str, Path]:
    """Vectors at the blocks of the shipped one, with its factors and random directions."""
    shipped = SteeringVector.load("pirate")
    random = torch.Generator().manual_seed(0)
    found = {}
    for i in range(VECTORS):
        sites = tuple(
            replace(site, weight=orthonormal_rows(torch.randn(site.weight.shape, generator=random)))
            for site in shipped.sites
        )
        found[str(i)] = replace(shipped, sites=sites).save(folder / str(i))
    return found


def engine(arguments: Mapping[str, Any], compiled: bool) -> Any:
    """An engine that computes each prompt anew."""
    from vllm import LLM

    return LLM(
        str(packaged_model()),
        dtype="float32",
        max_model_len=512,
        enable_prefix_caching=False,
        enforce_eager=not compiled,
        **arguments,
    )


if __name__ == "__main__":
    sys.exit(run_command(serving, None, "python -m benchmarks.speed.serving"))
