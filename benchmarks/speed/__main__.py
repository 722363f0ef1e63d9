"""`python -m benchmarks.speed --refusal REFUSAL.parquet --axbench AXBENCH.parquet`.

Compares the engine with the authors' way on plain pyvene, in one process and on the same rows:
training steps in float32 and bfloat16, a whole concept, and steered generation. Prints a table and
writes `speed.json`; every ratio is of two medians of one run.
"""

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jsonargparse import auto_cli

from benchmarks.measure import attainable_gemm
from benchmarks.speed.generation import generation_cost
from benchmarks.speed.release_loop import ReleaseLosses
from benchmarks.speed.rows import axbench_rows, refusal_rows
from benchmarks.speed.steps import StepCost, median_step
from concept_das.chats import ChatFormat, pad_id_of
from concept_das.data import EncodedQuadruple, read_quadruples
from concept_das.engine import ReplayLosses
from concept_das.methods import METHODS
from concept_das.models import DTYPES, LoadedModel, load_model
from concept_das.pipeline import versions
from concept_das.sites import Site, find_site
from concept_das.training import Losses, TrainingConfig, train_direction
from concept_das.vectors import ModelIdentity, SteeringVector, write_atomically
from interventions import DistributedInterchangeIntervention


def main(
    refusal: Path,
    axbench: Path,
    model: str = "smollm2-135m",
    layer: int = 15,
    batch_size: int = 8,
    steps: int = 5,
    epochs: int = 10,
    out: Path = Path("results/speed"),
) -> None:
    """Measure and write `speed.json` and `speed.csv`.

    Args:
        refusal: quadruples with short responses (the release's refusal pairs).
        axbench: AxBench training file; its concept 3 has responses of 128 tokens.
        model: hub id, local folder or smollm2-135m.
        layer: decoder block, 0-based.
        batch_size: quadruples per step.
        steps: steps timed, after as many to warm up.
        epochs: passes over the rows for the cost of a concept.
        out: folder for the results.
    """
    figures: dict[str, Any] = {}
    table = []
    for dtype in DTYPES:
        loaded = load_model(model, dtype=dtype)
        chat = ChatFormat.of(loaded.tokenizer)
        sets = {"refusal": refusal_rows(refusal, chat), "axbench": axbench_rows(axbench, chat)}
        site = find_site(loaded.model, layer)
        attainable = attainable_gemm(DTYPES[dtype], loaded.device)
        for name, rows in sets.items():
            release, engine = _steps(loaded, site, rows, batch_size, steps)
            for way, cost in (("release", release), ("engine", engine)):
                fraction = cost.flops / cost.seconds / attainable
                table.append(
                    {"rows": name, "dtype": dtype, "way": way, **asdict(cost), "gemm": fraction}
                )
            figures[f"train_step_ratio_{name}_{dtype}"] = release.seconds / engine.seconds
            figures[f"step_memory_ratio_{name}_{dtype}"] = release.peak_bytes / engine.peak_bytes
        figures[f"train_step_ratio_{dtype}"] = figures[f"train_step_ratio_axbench_{dtype}"]
        if dtype == "float32":
            figures["gemm_fraction"] = table[-1]["gemm"]
            release_step = table[-2]["seconds"]
            figures |= _concept(loaded, layer, sets["axbench"], batch_size, epochs, release_step)
            figures |= _generation(loaded, chat, layer, refusal)
    frame = pd.DataFrame(table)
    print(frame.round(3).to_string(index=False))
    print(json.dumps(figures, indent=2))
    write_atomically(out / "speed.csv", frame.to_csv(index=False).encode())
    command = "python -m benchmarks.speed " + " ".join(sys.argv[1:])
    record = {**figures, "command": command, "cores": torch.get_num_threads(), **versions()}
    write_atomically(out / "speed.json", json.dumps(record, indent=2).encode())


def _steps(
    loaded: LoadedModel,
    site: Site,
    rows: list[EncodedQuadruple],
    batch_size: int,
    steps: int,
) -> tuple[StepCost, StepCost]:
    """The release's way and the engine on the same batches."""
    used = rows[: batch_size * steps]
    intervention = DistributedInterchangeIntervention(embed_dim=site.width).to(loaded.device)
    pad = pad_id_of(loaded.tokenizer)
    device = loaded.device

    def measured(losses: Losses) -> StepCost:
        return median_step(
            losses, intervention, used, batch_size=batch_size, steps=steps, device=device
        )

    release = measured(ReleaseLosses(loaded.model, site, intervention, pad))
    engine = ReplayLosses(loaded.model, site, intervention, METHODS["cdas"], "token", pad, used)
    return release, measured(engine)


def _concept(
    loaded: LoadedModel,
    layer: int,
    rows: list[EncodedQuadruple],
    batch_size: int,
    epochs: int,
    release_step: float,
) -> dict[str, float]:
    """A whole training run by the engine, caching included, against the release's steps."""
    config = TrainingConfig(epochs=epochs, batch_size=batch_size)
    start = time.perf_counter()
    train_direction(
        loaded.model,
        find_site(loaded.model, layer),
        rows,
        config,
        pad_id=pad_id_of(loaded.tokenizer),
    )
    seconds = time.perf_counter() - start
    count = epochs * -(-len(rows) // batch_size)
    return {
        "concept_seconds": seconds,
        "concept_seconds_release": release_step * count,
        "train_concept_ratio": release_step * count / seconds,
    }


def _generation(
    loaded: LoadedModel, chat: ChatFormat, layer: int, refusal: Path
) -> dict[str, float]:
    """Eight prompts, 64 new tokens, a random direction: what it says does not matter."""
    width = find_site(loaded.model, layer).width
    weight = torch.nn.functional.normalize(torch.randn(1, width), dim=1)
    vector = SteeringVector(
        weight,
        torch.zeros(1),
        torch.ones(1),
        layer,
        ModelIdentity.of(loaded.model),
        prefix_length=len(chat.prefix),
    )
    prompts = [chat.prompt(row.negative_input) for row in read_quadruples(refusal)[:8]]
    cost = generation_cost(loaded, vector, prompts)
    return {
        "generate_vs_unsteered": cost.steered / cost.unsteered,
        "generate_vs_uncached": cost.uncached / cost.steered,
        "generate_same_tokens": cost.same_tokens,
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    auto_cli(main, as_positional=False)
