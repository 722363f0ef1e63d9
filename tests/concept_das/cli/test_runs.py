"""A run's folder: a refused run leaves it as it was, and its numbers are its own vector's."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from concept_das.cli.parser import main, recorded
from concept_das.data.quadruples import data_hash
from concept_das.data.reading import read_quadruples, to_frame
from concept_das.errors import InputError
from concept_das.runs.alone import alone_in
from concept_das.runs.files import write_atomically
from concept_das.steering.artifact import load_vector
from tests.concept_das.cli.world import evaluate, train
from tests.concept_das.helpers import MORE_ROWS


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(train(world, out)) == 0
    assert main(evaluate(out)) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_refused_run_changes_no_file(world: Path, run: Path, tmp_path: Path) -> None:
    before = content(run)
    to_frame(MORE_ROWS[:8]).to_parquet(tmp_path / "fewer.parquet")
    for more in (
        ("--epochs=3",),
        ("--heldout=0",),
        ("--data", str(tmp_path / "fewer.parquet")),
        ("--layer=9",),
        ("--data=none.csv",),
        ("--rank=99",),
    ):
        assert main(train(world, run, *more)) == 2, more
        assert content(run) == before, more


def test_a_second_command_on_the_folder_is_refused(
    world: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ("--concept=Sing", "--max-new-tokens=3", "--count=2", f"--model={world}/model")
    make = ["data", "make", *rows, f"--out={run}/rows.csv", "--device=cpu"]
    with alone_in(run):
        before = content(run)
        for command in (train(world, run), evaluate(run)):
            assert main(command) == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert f"{run} is being worked on by process {os.getpid()} on " in error
            assert content(run) == before
        assert main(make) == 0
    with alone_in(run, "rows.csv"):
        assert main(make) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{run}/rows.csv is being worked on by process" in error
        assert main(evaluate(run)) == 0
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("wandb", ["off", "offline"])
def test_a_refused_new_run_leaves_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    more = ("--layer=9", f"--wandb={wandb}")
    assert main(train(world, tmp_path / "new", *more)) == 2
    assert not (tmp_path / "new").exists()
    compared = ("compare", f"--data={world}/rows.parquet", f"--model={world}/model", *more)
    assert main([*compared, f"--out={tmp_path}/new", "--methods=cdas", "--heldout=2"]) == 2
    assert not (tmp_path / "new").exists()


def test_the_same_command_again_keeps_what_was_measured(world: Path, finished: Path) -> None:
    before = content(finished)
    assert main(train(world, finished)) == 0
    assert content(finished) == before


def test_an_evaluation_that_ends_before_its_last_file_leaves_a_vector(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_vector(run / "vector")
    replace(before, metrics={}).save(run / "vector")

    def killed(path: Path, content: bytes) -> None:
        if path.name == "vector.safetensors":
            raise KeyboardInterrupt
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("concept_das.steering.artifact.write_atomically", killed)
        assert main(evaluate(run)) == 130
    assert load_vector(run / "vector").metrics == {}
    assert (run / "evaluation.partial.json").exists()  # so that nothing is measured again
    assert main(evaluate(run)) == 0
    assert load_vector(run / "vector").metrics == before.metrics
    assert not (run / "evaluation.partial.json").exists()


@pytest.mark.parametrize("heldout", [0, 4])
def test_another_vector_takes_the_place_of_all(world: Path, run: Path, heldout: int) -> None:
    assert main(train(world, run, "--method=diffmean", f"--heldout={heldout}")) == 0
    assert not (run / "evaluation.csv").exists()
    assert not (run / "rows.parquet").exists()
    assert (run / "heldout.parquet").exists() == bool(heldout)
    assert yaml.safe_load((run / "config.yaml").read_text())["heldout"] == heldout
    vector = load_vector(run / "vector")
    assert vector.metrics == {}
    assert ("heldout_hash" in vector.recipe) == bool(heldout)
    assert main(evaluate(run)) == (0 if heldout else 2)


def test_evaluation_takes_the_rows_that_were_held_out_and_no_others(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = read_quadruples(run / "heldout.parquet")
    vector = load_vector(run / "vector")
    assert vector.recipe["heldout_hash"] == data_hash(held)
    before = (run / "vector/vector.json").read_bytes()
    for rows in (read_quadruples(run / "train.parquet"), held[:2], held[::-1]):
        to_frame(rows).to_parquet(run / "heldout.parquet")
        assert main(evaluate(run)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "heldout.parquet does not hold the rows that were held out when" in error
        assert (run / "vector/vector.json").read_bytes() == before
    given = ("--data", str(run / "heldout.parquet"), "--out", str(tmp_path / "other"))
    assert main(evaluate(run, *given)) == 0
    assert "an input that" not in caplog.text
    to_frame(MORE_ROWS).to_parquet(tmp_path / "all.parquet")
    given = ("--data", str(tmp_path / "all.parquet"), "--out", str(tmp_path / "other"))
    assert main(evaluate(run, *given)) == 0
    assert f"7 of 10 rows have an input that {run}/vector was trained on" in caplog.text


def test_a_vector_of_an_earlier_release_is_measured_on_what_is_there(run: Path) -> None:
    vector = load_vector(run / "vector")
    recipe = {name: value for name, value in vector.recipe.items() if name != "heldout_hash"}
    replace(vector, recipe=recipe).save(run / "vector")
    to_frame(read_quadruples(run / "heldout.parquet")[:2]).to_parquet(run / "heldout.parquet")
    assert main(evaluate(run)) == 0


def test_rows_with_equal_inputs_are_not_on_both_sides(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to_frame([*MORE_ROWS, *MORE_ROWS[:4]]).to_parquet(tmp_path / "rows.parquet")
    arguments = train(world, tmp_path / "run", "--data", str(tmp_path / "rows.parquet"))
    with caplog.at_level(logging.WARNING):
        assert main(arguments) == 0
    assert (
        "8 of 14 rows share an input with another and stay on its side: 3 are held" in caplog.text
    )
    sides = [read_quadruples(tmp_path / "run" / f"{n}.parquet") for n in ("train", "heldout")]
    inputs = [{row.negative_input for row in rows} for rows in sides]
    assert not inputs[0] & inputs[1]


@pytest.mark.parametrize("error", [InputError, OSError, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("earlier", [None, "seed: 1\n"])
def test_options_are_kept_of_the_run_that_the_folder_is_of(
    tmp_path: Path, error: Any, earlier: str | None
) -> None:
    path = tmp_path / "run/config.yaml"
    if earlier is not None:
        path.parent.mkdir()
        path.write_text(earlier)
    with pytest.raises(error), recorded(path, "seed: 2\n"):
        assert path.read_text() == (earlier or "seed: 2\n")
        raise error
    kept = path.read_text() if path.exists() else None
    stays = None if error in (InputError, OSError) else "seed: 2\n"
    assert kept == (earlier or stays)
    with recorded(path, "seed: 3\n"):
        pass
    assert path.read_text() == "seed: 3\n"
