import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate, unrelated_turns
from concept_das.experiments import grid as cells
from concept_das.experiments.comparison import ComparisonPlan, compare, read_answers
from concept_das.experiments.grid import GridPlan
from concept_das.methods.settings import TrainingConfig
from concept_das.training.vectors import train_vector
from tests.concept_das.helpers import ROWS, tiny_chat, tiny_config, tiny_loaded

PLAN = ComparisonPlan(
    layer=1,
    seeds=(1, 2),
    heldout=2,
    multipliers=(0.5, 1.0),
    unrelated=1,
    generations=1,
    new_tokens=4,
)

CONCEPTS = {3: ROWS, 4: [replace(row, concept_id=4, concept="Arr") for row in ROWS]}


def config(name: str, **changed: Any) -> TrainingConfig:
    return tiny_config(name, epochs=1, batch_size=2, max_response_tokens=6, **changed)


def run(out: Path, *names: str, plan: ComparisonPlan = PLAN) -> pd.DataFrame:
    configs = [config(name) for name in names]
    return compare(tiny_loaded(), tiny_chat(), CONCEPTS, configs, plan, out)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A finished comparison of a method that draws and one that does not."""
    out = tmp_path_factory.mktemp("comparison")
    return out, run(out, "cdas", "diffmean")


def without_time(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds").reset_index(drop=True)


def interrupted_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    done = []

    def run_or_stop(*arguments: Any, **options: Any) -> Any:
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return function(*arguments, **options)

    return run_or_stop


def test_one_row_per_method_concept_seed_and_multiplier(done: tuple[Path, pd.DataFrame]) -> None:
    out, table = done
    keys = ["method", "concept_id", "seed", "multiplier"]
    assert not table.duplicated(keys).any()
    assert table.groupby("method").size().to_dict() == {"cdas": 8, "diffmean": 4}
    assert set(table.loc[table["method"] == "diffmean", "seed"]) == {1}
    answers = read_answers(out)
    assert len(answers) == 2 * (2 + 1) * 2 * 2  # concepts, seeds, multipliers, directions
    assert table["repetition_elicit"].between(0, 1).all()
    perplexity = table["perplexity_suppress"].dropna()  # an empty answer has none
    assert len(perplexity)
    assert (perplexity > 1).all()


def test_methods_of_one_block_and_of_several_make_one_table(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft")
    table = run(tmp_path, "diffmean", "lora", plan=replace(PLAN, seeds=(1,), generations=0))
    assert dict(zip(table["method"], table["layers"], strict=True)) == {
        "diffmean": "1",
        "lora": "1 2",
    }
    layers = table["layers"].tolist()
    assert wandb.Table(columns=["layers"], data=[[value] for value in layers]).get_column("layers")


def test_a_cell_is_what_training_and_evaluating_alone_give(done: tuple[Path, pd.DataFrame]) -> None:
    _, table = done
    kept, held = PLAN.split(ROWS)
    loaded, chat, recipe = tiny_loaded(), tiny_chat(), config("cdas", seed=2)
    vector = train_vector(loaded, chat, kept, [], 1, recipe).vector
    expected = evaluate(
        loaded.model,
        chat,
        vector,
        loaded.encode(chat, held, recipe.max_response_tokens),
        multipliers=PLAN.multipliers,
        unrelated=unrelated_turns(chat, 1),
    ).table
    found = table.query("method == 'cdas' and concept_id == 3 and seed == 2")
    found = found.reset_index(drop=True)
    for column in expected:
        pd.testing.assert_series_equal(found[column], expected[column], rtol=1e-3, atol=1e-5)


def test_every_method_is_scored_on_the_same_text(tmp_path: Path) -> None:
    """A method that trains on shorter responses is not scored on shorter ones."""
    configs = [config("diffmean"), replace(config("lang"), max_response_tokens=2)]
    plan = replace(PLAN, seeds=(1,), generations=0)
    table = compare(tiny_loaded(), tiny_chat(), CONCEPTS, configs, plan, tmp_path)
    gaps = table.groupby(["concept_id", "method"])[["gap_elicit", "gap_suppress"]].mean()
    for concept in CONCEPTS:
        both = gaps.loc[concept]
        assert both.loc["lang"].tolist() == pytest.approx(both.loc["diffmean"].tolist())
    # A method alone is scored on what it trains on; the rest of the comparison is then another.
    alone = compare(tiny_loaded(), tiny_chat(), CONCEPTS, configs[:1], plan, tmp_path)
    assert len(alone) == 4
    with pytest.raises(InputError, match="results of other data or options"):
        compare(tiny_loaded(), tiny_chat(), CONCEPTS, configs[1:], plan, tmp_path)


def test_an_interrupted_comparison_goes_on(
    done: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cells, "_measure", interrupted_after(4, cells._measure))
        with pytest.raises(KeyboardInterrupt):  # between the seeds of the second concept
            run(tmp_path, "cdas", "diffmean")
    resumed = run(tmp_path, "cdas", "diffmean")
    pd.testing.assert_frame_equal(without_time(resumed), without_time(done[1]), rtol=1e-4)


def test_methods_and_seeds_can_be_added(
    done: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    trained = []
    original = cells.train_vectors

    def counted(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments[4].method)
        return original(*arguments, **options)

    monkeypatch.setattr(cells, "train_vectors", counted)
    more = run(tmp_path, "cdas", "diffmean", "prompt", plan=replace(PLAN, seeds=(1, 2, 3)))
    assert trained == ["cdas", "prompt"] * 2  # of cdas the third seed alone
    assert more.groupby("method")["layers"].unique().str.join(",").to_dict() == {
        "cdas": "1",
        "diffmean": "1",
        "prompt": "",
    }
    kept = more[(more["method"] != "prompt") & (more["seed"] < 3)]
    pd.testing.assert_frame_equal(without_time(kept), without_time(done[1]))


@pytest.mark.parametrize(
    ("names", "plan", "message"),
    [
        (["cdas"], {"heldout": 3}, "results of other data or options; delete it or choose"),
        (["cdas"], {"rows": 2}, "results of other data or options"),
        (["lang"], {"layer": 9}, "layer 9 is out of range"),
        (["lang"], {"heldout": 5}, "cannot hold out 5 of 5 rows"),
    ],
)
def test_what_stops_before_training(
    names: list[str],
    plan: dict[str, Any],
    message: str,
    done: tuple[Path, pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cells, "train_vectors", None)
    with pytest.raises(InputError, match=message):
        run(done[0], *names, plan=replace(PLAN, **plan))


def test_another_source_token_is_another_comparison(done: tuple[Path, pd.DataFrame]) -> None:
    chat = tiny_chat(source_token=-2)
    with pytest.raises(InputError, match="results of other data or options"):
        compare(tiny_loaded(), chat, CONCEPTS, [config("diffmean")], PLAN, done[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "at least one of the seeds"),
        ({"multipliers": (1.0, 1.0)}, "multipliers, and each of them once"),
        ({"rows": 0}, "rows is 0"),
    ],
)
def test_unusable_plans(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(PLAN, **options)


def test_fewer_rows_are_a_part_of_the_same_split() -> None:
    rows = [Quadruple(f"a {i}", "b", "c", "d") for i in range(20)]
    kept, held = GridPlan(heldout=2).split(rows)
    fewer, same = GridPlan(heldout=2, rows=5).split(rows)
    assert same == held
    assert len(fewer) == 5
    assert set(fewer) < set(kept)


def test_a_method_in_several_forms(tmp_path: Path) -> None:
    configs = {"cdas": config("cdas"), "cdas@two": config("cdas", layers=(1, 2))}
    plan = replace(PLAN, seeds=(1,))
    table = compare(tiny_loaded(), tiny_chat(), CONCEPTS, configs, plan, tmp_path)
    layers = table.groupby("method")["layers"].unique().to_dict()
    assert {name: list(found) for name, found in layers.items()} == {
        "cdas": ["1"],
        "cdas@two": ["1 2"],
    }
    assert set(read_answers(tmp_path)["method"]) == {"cdas", "cdas@two"}
    again = compare(tiny_loaded(), tiny_chat(), CONCEPTS, configs, plan, tmp_path)
    pd.testing.assert_frame_equal(again, table)


def test_a_missing_package_is_named_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else found(name)
    )
    with pytest.raises(InputError, match="lora needs peft; run `pip install"):
        run(tmp_path, "cdas", "lora")
    assert not list(tmp_path.iterdir())
