"""`python -m benchmarks.speed --refusal REFUSAL.parquet --axbench AXBENCH.parquet`.

`--beside-peers` compares with other libraries instead: answers steered by steering-vectors and
repeng, training by pyreft's trainer and the release's loop. Writes `answers.csv`, `training.csv`,
their figures and `peers.json`.

Compares the engine with the authors' way on plain pyvene, in one process and on the same rows:
training steps in float32 and bfloat16, a whole concept, several concepts at once, steered
generation, and how a step's cost grows. Prints a table and writes `speed.json`, `steps.csv`,
`growth.csv` and `growth.png`. Every ratio is of two medians of one run; `train_step_ratio_DTYPE` is
the geometric mean over the two data sets.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy import stats

from benchmarks.speed.answers import PEERS, added_vectors, compare_answers, plot_answers
from benchmarks.speed.generation import generation_cost, sampling_cost
from benchmarks.speed.growth import VOCABULARIES, growth, plot_growth
from benchmarks.speed.rows import axbench_rows, refusal_rows
from benchmarks.speed.steps import compare_steps, engine_step, release_step
from benchmarks.speed.timing import attainable_gemm
from benchmarks.speed.training import compare_training, plot_training, to_equal_loss
from benchmarks.steps import installed
from concept_das.cli.parser import run_command
from concept_das.data.chat_format import ChatFormat
from concept_das.data.encoding import EncodedQuadruple
from concept_das.data.files import write_table
from concept_das.data.reading import read_quadruples
from concept_das.data.shipped import shipped_instructions
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site, spread_blocks
from concept_das.models.loading import DTYPES, LoadedModel, load_model
from concept_das.runs.files import write_atomically
from concept_das.steering.vector import DirectionAtSite, ModelIdentity, SteeringVector
from concept_das.training.concept import TrainingTask
from concept_das.training.loop import train_directions
from concept_das.training.options import EngineOptions
from concept_das.training.vectors import versions


def speed(
    refusal: Path,
    axbench: Path,
    model: str = "smollm2-135m",
    layer: int = 15,
    batch_size: int = 8,
    steps: int = 5,
    epochs: int = 10,
    batch_tokens: int = 2048,
    beside_peers: bool = False,
    prompts: int = 64,
    new_tokens: int = 64,
    rounds: int = 5,
    out: Path = Path("results/speed"),
) -> None:
    """Speed of training and of steered answers, beside plain pyvene or other libraries.

    Args:
        refusal: quadruples with short responses (the release's refusal pairs).
        axbench: AxBench training file; its concept 3 has responses of 128 tokens.
        model: hub id, local folder or smollm2-135m.
        layer: decoder block, 0-based.
        batch_size: quadruples per step.
        steps: steps timed of each way.
        epochs: passes over the rows for the cost of a concept.
        batch_tokens: tokens of one forward and backward pass of the engine.
        beside_peers: compare with other libraries, in float32; those that are installed take part.
        prompts: answered beside peers.
        new_tokens: length of those answers.
        rounds: how often each way of answering is timed.
        out: folder for the results.
    """
    if beside_peers:
        _beside_peers(model, layer, refusal, prompts, new_tokens, rounds, out)
        return
    figures: dict[str, Any] = {}
    table = []
    options = EngineOptions(batch_tokens=batch_tokens)
    for dtype in ("bfloat16", "float32"):  # float32 last: the rest is measured in it
        loaded = load_model(model, dtype=dtype)
        chat = ChatFormat.of(loaded.tokenizer)
        concepts = [axbench_rows(axbench, chat, number) for number in (3, 0, 1, 2, 4, 5, 6, 7)]
        attainable = attainable_gemm(DTYPES[dtype], loaded.device)
        figures[f"attainable_gflops_{dtype}"] = attainable / 1e9
        for name, rows in {"refusal": refusal_rows(refusal, chat), "axbench": concepts[0]}.items():
            used = rows[: batch_size * steps]
            ways = {
                "release": release_step(loaded, layer),
                "engine": engine_step(loaded, layer, used, options),
            }
            costs = compare_steps(
                ways, used, batch_size=batch_size, repeats=steps, device=loaded.device
            )
            for way, cost in costs.items():
                fraction = cost.flops / cost.seconds / attainable
                table.append(
                    {"rows": name, "dtype": dtype, "way": way, **asdict(cost), "gemm": fraction}
                )
            print(pd.DataFrame(table[-2:]).round(3).to_string(index=False), flush=True)
    figures |= ratios(pd.DataFrame(table))
    figures["gemm_fraction"] = table[-1]["gemm"]
    figures |= _concept(loaded, layer, concepts[0], batch_size, epochs, table[-2]["seconds"])
    figures |= _together(loaded, layer, [rows[:8] for rows in concepts])
    figures |= _same_direction(loaded, layer, refusal_rows(refusal, chat)[:32])
    figures |= _generation(loaded, chat, layer, refusal)
    figures |= sampling_cost(loaded, vocabulary=max(VOCABULARIES))
    curves = growth(loaded, layer, concepts, options)
    write_table(out / "growth.csv", curves)
    plot_growth(curves, out / "growth.png")
    frame = pd.DataFrame(table)
    print(frame.round(3).to_string(index=False))
    print(json.dumps(figures, indent=2))
    write_table(out / "steps.csv", frame)
    command = f"python -m benchmarks.speed --refusal {refusal.name} --axbench {axbench.name}"
    record = {**figures, "command": command, "cores": torch.get_num_threads(), **versions()}
    write_atomically(out / "speed.json", json.dumps(record, indent=2).encode())


def _beside_peers(
    model: str, layer: int, refusal: Path, count: int, new_tokens: int, rounds: int, out: Path
) -> None:
    loaded = load_model(model, dtype="float32")
    chat = ChatFormat.of(loaded.tokenizer)
    prompts = [chat.prompt(text) for text in shipped_instructions(count, seed=42)]
    vectors = added_vectors(loaded, layer, len(chat.prefix))
    answers = compare_answers(loaded, prompts, vectors, new_tokens=new_tokens, rounds=rounds)
    rows = refusal_rows(refusal, chat)[:48]
    training = compare_training(loaded, layer, rows[:32], rows[32:])
    write_table(out / "answers.csv", answers)
    write_table(out / "training.csv", training)
    plot_answers(answers, out / "answers.png")
    plot_training(training, out / "training.png")
    print(answers.round(3).to_string(index=False))
    print(to_equal_loss(training).round(3).to_string(index=False))
    record = {
        "command": f"python -m benchmarks.speed --refusal {refusal.name} --axbench FILE "
        f"--beside-peers --prompts {count} --new-tokens {new_tokens} --rounds {rounds}",
        "cores": torch.get_num_threads(),
        **versions(),
        **installed(*PEERS, "pyreft"),
    }
    write_atomically(out / "peers.json", json.dumps(record, indent=2).encode())


def ratios(table: pd.DataFrame) -> dict[str, float]:
    """The release's step over the engine's, per data set and precision, and over both sets.

    Args:
        table: one row per data set (`rows`), `dtype` and `way`.
    """
    found: dict[str, float] = {}
    for dtype, of_dtype in table.groupby("dtype"):
        for rows, pair in of_dtype.groupby("rows"):
            release, engine = (pair[pair["way"] == w].iloc[0] for w in ("release", "engine"))
            for name, column in (
                ("train_step_ratio", "seconds"),
                ("step_memory_ratio", "peak_bytes"),
                ("step_flops_ratio", "flops"),
            ):
                found[f"{name}_{rows}_{dtype}"] = float(release[column] / engine[column])
            error = abs(engine["loss"] / release["loss"] - 1)
            found[f"loss_relative_error_{rows}_{dtype}"] = float(error)
        sets = [found[f"train_step_ratio_{rows}_{dtype}"] for rows in of_dtype["rows"].unique()]
        found[f"train_step_ratio_{dtype}"] = float(stats.gmean(sets))
    return found


def _concept(
    loaded: LoadedModel,
    layer: int,
    rows: Sequence[EncodedQuadruple],
    batch_size: int,
    epochs: int,
    release_seconds: float,
) -> dict[str, float]:
    """A whole training run by the engine, caching included, against the release's steps."""
    config = TrainingConfig(epochs=epochs, batch_size=batch_size)
    seconds = _train(loaded, layer, [rows], config, EngineOptions())[0]
    release = release_seconds * epochs * -(-len(rows) // batch_size)
    return {
        "concept_seconds": seconds,
        "concept_seconds_release": release,
        "train_concept_ratio": release / seconds,
    }


def _together(
    loaded: LoadedModel, layer: int, concepts: Sequence[Sequence[EncodedQuadruple]]
) -> dict[str, float]:
    """Several concepts in one run against one after the other: same directions, less time."""
    config = TrainingConfig(epochs=2)
    alone, apart = _train(loaded, layer, concepts, config, EngineOptions(together=1))
    together, joint = _train(loaded, layer, concepts, config, EngineOptions(together=len(concepts)))
    return {
        "concepts_together": len(concepts),
        "together_seconds_per_concept": together / len(concepts),
        "alone_seconds_per_concept": alone / len(concepts),
        "together_smallest_cosine": float(torch.cosine_similarity(apart, joint, dim=1).min()),
    }


def _same_direction(
    loaded: LoadedModel, layer: int, rows: Sequence[EncodedQuadruple]
) -> dict[str, float]:
    """A run by the engine and by plain pyvene, from the same start."""
    config = TrainingConfig(epochs=5)
    engine, found = _train(loaded, layer, [rows], config, EngineOptions())
    plain, expected = _train(loaded, layer, [rows], config, EngineOptions("pyvene"))
    return {
        "direction_cosine": float(torch.cosine_similarity(found, expected, dim=1)),
        "run_seconds_engine": engine,
        "run_seconds_pyvene": plain,
    }


def _train(
    loaded: LoadedModel,
    layer: int,
    concepts: Sequence[Sequence[EncodedQuadruple]],
    config: TrainingConfig,
    options: EngineOptions,
) -> tuple[float, torch.Tensor]:
    """Seconds of a run, and each concept's direction, `[concepts, dim]`."""
    start = time.perf_counter()
    results = train_directions(
        loaded.model,
        [find_site(loaded.model, layer)],
        [TrainingTask(rows) for rows in concepts],
        config,
        engine=options,
    )
    seconds = time.perf_counter() - start
    return seconds, torch.cat([result.weight for result in results])


def _generation(
    loaded: LoadedModel, chat: ChatFormat, layer: int, refusal: Path
) -> dict[str, float]:
    """Eight prompts, 64 new tokens, at one block and across blocks.

    The directions are random: what the answers say does not matter.
    """
    site = find_site(loaded.model, layer)
    prompts = [chat.prompt(row.negative_input) for row in read_quadruples(refusal)[:8]]
    found: dict[str, float] = {}
    for name, layers in {"": (layer,), "_spread": spread_blocks(site.n_layers)}.items():
        weights = torch.nn.functional.normalize(torch.randn(len(layers), 1, site.width), dim=2)
        vector = SteeringVector(
            sites=[
                DirectionAtSite(weight, torch.zeros(1), torch.ones(1), one)
                for weight, one in zip(weights, layers, strict=True)
            ],
            model=ModelIdentity.of(loaded.model),
            prefix_length=len(chat.prefix),
        )
        cost = generation_cost(loaded, vector, prompts)
        found |= {f"generate{name}_{what}": value for what, value in cost.items()}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run `speed`; 0 on success, 2 on unusable input, 130 on an interrupt."""
    return run_command(speed, argv, "python -m benchmarks.speed")


if __name__ == "__main__":
    sys.exit(main())
