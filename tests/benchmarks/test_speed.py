"""The yardstick of the speed benchmark computes what the engine computes."""

from pathlib import Path

import pandas as pd
import pytest
import torch

import benchmarks.speed.growth as growth_module
from benchmarks.speed.__main__ import ratios
from benchmarks.speed.generation import generation_cost, sampling_cost
from benchmarks.speed.growth import AXES, growth, plot_growth
from benchmarks.speed.rows import axbench_rows
from benchmarks.speed.steps import compare_steps, engine_step, release_step
from benchmarks.speed.timing import attainable_gemm, peak_bytes_of, seconds_of
from concept_das.training.options import EngineOptions
from tests.concept_das.helpers import encoded_rows, random_vector, tiny_chat, tiny_loaded

CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_both_ways_have_the_same_loss_and_the_engine_less_work(architecture: str) -> None:
    loaded, rows = tiny_loaded(architecture), encoded_rows()
    ways = {
        "release": release_step(loaded, 2),
        "engine": engine_step(loaded, 2, rows, EngineOptions()),
    }
    costs = compare_steps(ways, rows, batch_size=2, repeats=2, device=CPU)
    assert costs["engine"].loss == pytest.approx(costs["release"].loss, rel=1e-4)
    assert 0 < costs["engine"].flops < costs["release"].flops / 3
    assert all(cost.seconds > 0 for cost in costs.values())


def test_steered_generation_is_the_same_text_in_all_ways() -> None:
    loaded = tiny_loaded()
    prompts = [tiny_chat().prompt(text) for text in ("Hi", "Name a tree")]
    vector = random_vector(loaded.model)
    cost = generation_cost(loaded, vector, prompts, new_tokens=6, repeats=1)
    assert set(cost) == {"vs_unsteered", "vs_uncached", "same_tokens"}
    assert cost["same_tokens"]
    assert min(cost.values()) > 0


def test_sampling_is_timed_at_a_vocabulary_of_its_own() -> None:
    loaded = tiny_loaded()
    before = loaded.model.config.vocab_size
    cost = sampling_cost(loaded, vocabulary=700, rows=2, new_tokens=3, repeats=1)
    assert set(cost) == {"sample_vs_greedy", "sample_top_k_vs_greedy"}
    assert min(cost.values()) > 0
    assert loaded.model.config.vocab_size == before


def test_the_peak_is_what_was_held_at_once() -> None:
    def call() -> torch.Tensor:
        first = torch.ones(2**20)  # 4 MiB
        second = torch.ones(2**19) + first[: 2**19]  # 4 MiB beside it for a moment
        del first
        return second * 2

    assert peak_bytes_of(call, CPU) == pytest.approx(2**23, rel=0.01)
    assert seconds_of(call, CPU) > 0


def test_the_rate_of_the_machine_is_positive() -> None:
    assert attainable_gemm(torch.float32, CPU, 64) > 1e6


def test_axbench_rows_stand_in_the_next_answer_for_the_neutral_one(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "input": ["Name a tree", "Sing"],
            "output": ["oak", "la"],
            "output_concept": ["trees", "trees"],
            "concept_genre": ["text", "text"],
            "concept_id": [3, 3],
            "category": ["positive", "positive"],
        }
    )
    frame.to_parquet(tmp_path / "axbench.parquet")
    rows = axbench_rows(tmp_path / "axbench.parquet", tiny_chat())
    chat = tiny_chat()
    assert [row.elicit.base.response for row in rows] == [chat.text_ids("oak"), chat.text_ids("la")]
    assert [row.suppress.base.response for row in rows] == [
        chat.text_ids("la"),
        chat.text_ids("oak"),
    ]


def test_there_is_a_point_for_every_value_and_way(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, rows = tiny_loaded(), encoded_rows()
    for name in ("TOKENS", "ROWS", "CONCEPTS"):
        monkeypatch.setattr(growth_module, name, (1, 2))
    monkeypatch.setattr(growth_module, "VOCABULARIES", (200,))
    points = growth(loaded, 1, [rows, rows], EngineOptions())
    assert points.groupby(["axis", "way"]).size().to_dict() == {
        ("concepts", "engine"): 2,
        ("layer", "engine"): 4,
        ("rows", "engine"): 2,
        ("tokens", "engine"): 2,
        ("tokens", "release"): 2,
        ("vocabulary", "engine"): 1,
        ("vocabulary", "release"): 1,
    }
    assert (points[["seconds", "peak_bytes"]] > 0).all(axis=None)


def test_the_plot_has_every_axis(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [
            {"axis": axis, "value": value, "way": way, "seconds": 1.0, "peak_bytes": 2**30}
            for axis in AXES
            for value in (1, 2)
            for way in ("release", "engine")
        ]
    )
    plot_growth(frame, tmp_path / "plots" / "growth.png")
    assert (tmp_path / "plots" / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_the_releases_over_the_engines() -> None:
    seconds = {("refusal", "release"): 9.0, ("axbench", "release"): 8.0}
    table = pd.DataFrame(
        [
            {
                "rows": rows,
                "dtype": "float32",
                "way": way,
                "seconds": seconds.get((rows, way), 2.0 if rows == "axbench" else 1.0),
                "peak_bytes": 30 if way == "release" else 10,
                "flops": 50 if way == "release" else 10,
                "loss": 0.5 if way == "release" else 0.4,
            }
            for rows in ("refusal", "axbench")
            for way in ("release", "engine")
        ]
    )
    found = ratios(table)
    assert found["train_step_ratio_refusal_float32"] == 9.0
    assert found["train_step_ratio_axbench_float32"] == 4.0
    assert found["train_step_ratio_float32"] == pytest.approx(6.0)
    assert found["step_memory_ratio_axbench_float32"] == 3.0
    assert found["loss_relative_error_refusal_float32"] == pytest.approx(0.2)
