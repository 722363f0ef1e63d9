import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from concept_das.cli.parser import main
from concept_das.data.quadruples import Quadruple, split_quadruples
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate, unrelated_turns
from concept_das.experiments.sweep import SweepPlan, sweep
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.steering.artifact import load_vector
from concept_das.steering.vector import SteeringVector
from concept_das.training import loop as training
from concept_das.training.vectors import train_vector
from tests.concept_das.cli.world import save_world
from tests.concept_das.helpers import MORE_ROWS, ROWS, tiny_chat, tiny_loaded
from tests.tiny import CHAT_TEMPLATE, LAYERS, WIDTH, tiny_model

CONFIG = TrainingConfig(epochs=2, batch_size=4, max_response_tokens=6)
PLAN = SweepPlan(
    layers=(1, -1), ranks=(1, 2), seeds=(7, 8), heldout=3, multipliers=(0.5, 1.0), unrelated=2
)


def run(out: Path, plan: SweepPlan = PLAN, config: TrainingConfig = CONFIG, **given: Any) -> Any:
    rows: list[Quadruple] = given.get("rows", MORE_ROWS)
    return sweep(tiny_loaded(), given.get("chat", tiny_chat()), rows, config, plan, out)


def without_time(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A finished sweep."""
    out = tmp_path_factory.mktemp("sweep")
    return out, run(out)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "sum_losses", None)


def test_a_row_per_layer_rank_seed_and_multiplier(done: tuple[Path, pd.DataFrame]) -> None:
    out, table = done
    cells = table[["layer", "rank", "seed", "multiplier"]].to_records(index=False).tolist()
    assert cells == [(n, k, s, m) for n in (1, 3) for k in (1, 2) for s in (7, 8) for m in (0.5, 1)]
    assert (table["parameters"] == table["rank"] * WIDTH).all()
    assert (table["concept_id"] == 3).all()
    for direction in ("elicit", "suppress"):
        assert table[f"kl_side_effect_{direction}"].gt(0).all()
        assert table[f"heldout_jsd_{direction}"].between(0, math.log(2)).all()
    vector = load_vector(out / "layer-3/rank-2/seed-8/vector", tiny_model())
    assert (vector.layers, vector.rank, vector.recipe["seed"]) == ((3,), 2, 8)
    assert {path.name for path in out.iterdir()} == {"layer-1", "layer-3"}


def test_a_cell_is_what_training_and_evaluating_alone_give(
    done: tuple[Path, pd.DataFrame],
) -> None:
    out, table = done
    loaded, chat = tiny_loaded(), tiny_chat()
    kept, held = split_quadruples(MORE_ROWS, 3, PLAN.split_seed)
    config = replace(CONFIG, rank=2, seed=8)
    alone = train_vector(loaded, chat, kept, [], 3, config).vector
    assert isinstance(alone, SteeringVector)
    found = SteeringVector.load(out / "layer-3/rank-2/seed-8/vector")
    torch.testing.assert_close(found.weight, alone.weight, rtol=0, atol=1e-4)
    expected = evaluate(
        loaded.model,
        chat,
        found,
        loaded.encode(chat, held, config.max_response_tokens),
        multipliers=PLAN.multipliers,
        unrelated=unrelated_turns(chat, 2),
    ).table
    row = table.query("layer == 3 and `rank` == 2 and seed == 8 and multiplier == 0.5").iloc[0]
    for name in expected:
        assert row[name] == pytest.approx(expected[name].iloc[0], rel=1e-6, nan_ok=True), name


def test_finished_work_is_not_done_again(
    done: tuple[Path, pd.DataFrame], no_training: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = done
    monkeypatch.setattr("concept_das.experiments.grid.evaluate", None)
    pd.testing.assert_frame_equal(run(out), table)
    part = run(out, replace(PLAN, layers=(3,), ranks=(2, 1), seeds=(8,)))
    assert part[["layer", "rank", "seed"]].drop_duplicates().to_numpy().tolist() == [
        [3, 2, 8],
        [3, 1, 8],
    ]


def test_a_killed_sweep_goes_on(
    done: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = done
    plan = replace(PLAN, ranks=(1,))
    trained: list[str] = []
    train = training.sum_losses

    def killed_in_the_second_cell(*args: Any, **options: Any) -> Any:
        trained.append("step")
        if len(trained) > 4 + 2:  # 4 steps a cell; the second's first epoch is saved
            raise KeyboardInterrupt
        return train(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "sum_losses", killed_in_the_second_cell)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, plan)
    assert len(list(tmp_path.glob("layer-1/*/*/done.json"))) == 2
    assert len(list(tmp_path.glob("layer-3/*/*/progress/progress.safetensors"))) == 2
    assert not list(tmp_path.glob("layer-3/*/*/done.json"))
    trained.clear()

    def counted(*args: Any, **options: Any) -> Any:
        trained.append("step")
        return train(*args, **options)

    monkeypatch.setattr(training, "sum_losses", counted)
    found = run(tmp_path, plan)
    assert len(trained) == 2
    expected = without_time(table.query("`rank` == 1")).reset_index(drop=True)
    pd.testing.assert_frame_equal(without_time(found), expected)


def test_killed_while_measuring(
    done: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = done
    plan = replace(PLAN, layers=(1,), ranks=(1,))

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concept_das.evaluation.recovery._Measurement.unrelated", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, plan)
    assert (tmp_path / "layer-1/rank-1/seed-7/evaluation.partial.json").exists()
    monkeypatch.setattr(training, "sum_losses", None)
    monkeypatch.setattr("concept_das.evaluation.recovery._Measurement.heldout", None)
    with pytest.raises(TypeError):  # seed 8 has held-out rows left to measure, seed 7 has not
        run(tmp_path, plan)
    assert (tmp_path / "layer-1/rank-1/seed-7/done.json").exists()
    monkeypatch.undo()
    found = run(tmp_path, plan)
    same = without_time(table).query("layer == 1 and `rank` == 1")
    pd.testing.assert_frame_equal(without_time(found), same)
    assert not list(tmp_path.rglob("*.partial.json"))


@pytest.mark.parametrize(
    "given",
    [
        {"config": replace(CONFIG, epochs=3)},
        {"plan": replace(PLAN, multipliers=(1.0,))},
        {"plan": replace(PLAN, unrelated=3)},
        {"plan": replace(PLAN, heldout=4)},
        {"plan": replace(PLAN, rows=5)},
        {"plan": replace(PLAN, split_seed=1)},
        {"rows": [*MORE_ROWS[1:], replace(MORE_ROWS[0], positive_output="Arr")]},
        {"chat": tiny_chat(system="Be rude.")},
        {"chat": tiny_chat(source_token=-2)},
        {"chat": tiny_chat(chat_template=CHAT_TEMPLATE.replace("assistant", "helper"))},
    ],
    ids=str,
)
def test_results_of_other_options_are_refused(
    done: tuple[Path, pd.DataFrame], given: dict[str, Any], no_training: None
) -> None:
    with pytest.raises(InputError, match="layer-1/rank-1/seed-7 holds results of other data"):
        run(done[0], **given)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": ()}, "at least one of the layers"),
        ({"layers": (1, 2, 1)}, "layers, and each of them once"),
        ({"ranks": ()}, "at least one of the ranks"),
        ({"ranks": (2, 2)}, "ranks, and each of them once"),
        ({"seeds": (1, 1)}, "seeds, and each of them once"),
        ({"multipliers": ()}, "at least one of the multipliers"),
        ({"rows": 0}, "rows is 0; train on at least one"),
        ({"heldout": 0}, "heldout is 0; hold out at least one"),
    ],
)
def test_plans_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(PLAN, **changed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plan": replace(PLAN, layers=(0, LAYERS))}, "layer 4 is out of range"),
        ({"plan": replace(PLAN, layers=(0, -LAYERS - 1))}, "layer -5 is out of range"),
        ({"plan": replace(PLAN, layers=(3, 0, -1))}, "layer -1 is layer 3, which is given too"),
        ({"plan": replace(PLAN, ranks=(1, WIDTH + 1))}, f"rank {WIDTH + 1} exceeds the model's"),
        ({"plan": replace(PLAN, ranks=(1, 0))}, "rank is 0; it must be at least 1"),
        ({"plan": replace(PLAN, heldout=10)}, "cannot hold out 10 of 10 rows"),
        ({"rows": []}, "cannot hold out 3 of 0 rows"),
        ({"rows": [*MORE_ROWS, replace(ROWS[0], concept_id=9)]}, "of 2 concepts; choose one"),
        ({"config": replace(CONFIG, patience=1)}, "patience is 1"),
        ({"config": replace(CONFIG, method="diffmean")}, "diffmean is not trained"),
        ({"config": replace(CONFIG, method="magic")}, "unknown method 'magic'"),
        ({"config": replace(CONFIG, method="apsr")}, "apsr acts at every block; sweep a method"),
        ({"config": replace(CONFIG, method="loreft", weight_decay=0.1)}, "weight_decay is 0.1"),
    ],
)
def test_unusable_input_is_refused_before_any_training(
    given: dict[str, Any], message: str, tmp_path: Path, no_training: None
) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_methods_that_act_at_several_layers_are_swept_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("pyreft")
    config = find_method("loreft").config(epochs=1, max_response_tokens=4)
    table = run(tmp_path, replace(PLAN, layers=(0, 2), ranks=(2,), seeds=(1,)), config)
    assert table["layer"].drop_duplicates().tolist() == [0, 2]
    assert (table["rank"] == 2).all()
    assert load_vector(tmp_path / "layer-2/rank-2/seed-1/vector").recipe["layers"] == [2]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    world = save_world(tmp_path_factory.mktemp("world"))
    return [
        *("sweep", f"--model={world}/model", "--device=cpu", "--wandb=off"),
        *(f"--data={world}/rows.parquet", "--layers=[1, -1]", "--ranks=[1, 2]"),
        *("--seeds=[7]", "--heldout=3", "--multipliers=[0.5, 1]", "--unrelated=2"),
        *("--epochs=2", "--batch-size=4", "--max-response-tokens=6"),
    ]


def test_the_command(arguments: list[str], done: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {
        "layer-1", "layer-3", "table.csv", "summary.md", "heatmap.png", "config.yaml"
    }  # fmt: skip
    found = pd.read_csv(tmp_path / "one/table.csv")
    expected = done[1].query("seed == 7").reset_index(drop=True)
    pd.testing.assert_frame_equal(without_time(found), without_time(expected), rtol=1e-3)
    config = tmp_path / "one/config.yaml"
    kept = yaml.safe_load(config.read_text())
    assert (kept["layers"], kept["ranks"], kept["epochs"]) == ([1, -1], [1, 2], 2)
    assert not {"rank", "seed"} & set(kept)
    changed = ("--layers=[1]", "--ranks=[2]")
    assert main(["sweep", "--config", str(config), "--out", str(tmp_path / "two"), *changed]) == 0
    assert pd.read_csv(tmp_path / "two/table.csv")["rank"].tolist() == [2] * 2


@pytest.mark.parametrize("option", ["--rank=1", "--seed=1", "--layer=1"])
def test_options_that_the_lists_replace(arguments: list[str], option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, option, "--out", str(tmp_path)])


def test_errors_of_the_command(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, message in (
        ("--layers=[9]", "layer 9 is out of range"),
        ("--ranks=[]", "at least one of the ranks"),
        ("--concept-id=5", "has no rows of concept 5"),
    ):
        assert main([*arguments, option, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
