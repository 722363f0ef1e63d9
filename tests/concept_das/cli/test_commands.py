"""The commands `evaluate`, `inspect`, `methods`, `data` and `compare`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from concept_das.cli.parser import main
from concept_das.data.reading import read_quadruples
from concept_das.methods.registry import METHODS
from concept_das.steering.vector import SteeringVector
from concept_das.words import DIRECTIONS
from tests.concept_das.cli.world import error_of, evaluate, steer
from tests.concept_das.helpers import tiny_loaded
from tests.tiny import save_tiny


def test_evaluation_stands_beside_the_vector(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = evaluate(run, "--multipliers=[0.5, 1]", "--batch-size=2")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "elicitation_recovery" in printed
    assert "elicit: recovery nan at 1 (fixed), nan (fair), nan at " in printed
    assert "(oracle: chosen on the rows it is reported on); gap " in printed
    table = pd.read_csv(run / "evaluation.csv")
    assert table["multiplier"].tolist() == [0.5, 1.0]
    rows = pd.read_parquet(run / "rows.parquet")
    assert (rows["kind"] == "heldout").sum() == 3 * 2 * 2
    assert not list(run.glob("*.partial.json"))
    vector = SteeringVector.load(run / "vector")
    for direction in DIRECTIONS:
        best = table.loc[table[f"gain_{direction}"].idxmax()]
        assert vector.metrics[f"multiplier_{direction}_oracle"] == best["multiplier"]
        assert vector.metrics[f"multiplier_{direction}"] in (0.5, 0.75, 1.0)
        assert vector.metrics[f"gap_{direction}"] == pytest.approx(best[f"gap_{direction}"])
    # No prompt has an effect on this random model.
    assert vector.metrics["elicitation_recovery"] is None
    assert "NaN" not in (run / "vector/vector.json").read_text()
    assert vector.metrics["rule"] == "paper"
    other = [*arguments, "--data", str(run / "train.parquet"), "--out", str(tmp_path / "else")]
    assert main(other) == 0
    assert (pd.read_parquet(tmp_path / "else/rows.parquet")["kind"] == "heldout").sum() == 7 * 4


def test_inspecting_a_row(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["inspect", "--model", str(model), "--device=cpu", "--data", str(data), "--row=2"]
    assert main([*options, "--direction=suppress", "--max-response-tokens=3"]) == 0
    text = capsys.readouterr().out
    assert "base (suppress): the intervened run" in text
    base, source = text.split("source: the untouched run")
    assert base.count(" source ") == source.count(" source ") - 0 == 1
    assert base.count(" response ") == 3


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == list(METHODS)
    below = dict(zip(METHODS, lines[1::2], strict=True))
    assert "elicits and suppresses: clamp" in below["cdas"]
    assert "elicits: the adapter" in below["lora"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_making_and_checking_data(
    model: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    out = tmp_path / f"rows{suffix}"
    (tmp_path / "in.txt").write_text("Name a fruit\nHi\n\nSing\nHi\n")
    options = ["--model", str(model), "--device", "cpu"]
    make = ["data", "make", *options, "--concept", "Talk like a pirate", "--out", str(out)]
    make += ["--instructions", str(tmp_path / "in.txt"), "--max-new-tokens=5", "--concept-id=4"]
    with caplog.at_level(logging.INFO):
        assert main(make) == 0
    rows = read_quadruples(out)
    assert f"{len(rows)} of 3 rows kept in {out}" in caplog.text
    assert {row.negative_input for row in rows} <= {"Name a fruit", "Hi", "Sing"}
    assert all(row.concept_id == 4 for row in rows)
    assert not list(tmp_path.glob("*.partial.json"))
    capsys.readouterr()
    assert main(["data", "check", *options, "--data", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"{len(rows)} rows are usable" in text
    assert f"{len(rows)} rows of concept 'Talk like a pirate'" in text


@pytest.mark.parametrize(("count", "kept"), [((), 3), (("--count=2",), 2), (("--count=0",), None)])
def test_the_first_of_my_instructions_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: tuple[str, ...], kept: int | None
) -> None:
    (tmp_path / "in.txt").write_text("Name a fruit\nHi\nSing\n")
    asked: list[Sequence[str]] = []

    def made(loaded: Any, chat: Any, concept: str, chosen: Sequence[str], **_: Any) -> None:
        asked.append(chosen)
        raise KeyboardInterrupt

    monkeypatch.setattr("concept_das.make_quadruples", made)
    monkeypatch.setattr("concept_das.models.loading.load_model", lambda *_, **__: tiny_loaded())
    options = ("--concept=Sing", f"--instructions={tmp_path}/in.txt", f"--out={tmp_path}/a.csv")
    assert main(["data", "make", *options, *count]) == (130 if kept else 2)
    assert asked == ([["Name a fruit", "Hi", "Sing"][:kept]] if kept else [])


def test_shipped_instructions_are_the_default(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    options = ["--model", str(model), "--device", "cpu", "--count=4", "--genre=math"]
    options += ["--concept=Sing", "--max-new-tokens=5"]
    assert main(["data", "make", *options, "--out", str(out)]) == 0
    assert 1 <= len(read_quadruples(out)) <= 4


def test_completing_an_axbench_file(model: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "input": ["Hi", "Sing"],
            "output": ["Ahoy", "Yo-ho-ho"],
            "output_concept": "pirates",
            "concept_genre": "text",
            "concept_id": 3,
        }
    )
    frame.to_parquet(tmp_path / "train.parquet")
    out = tmp_path / "rows.csv"
    arguments = ["data", "axbench", "--model", str(model), "--device=cpu", "--max-new-tokens=5"]
    arguments += ["--axbench", str(tmp_path / "train.parquet"), "--concept-id=3", "--out", str(out)]
    assert main(arguments) == 0
    for row in read_quadruples(out):
        assert row.positive_output == {"Hi": "Ahoy", "Sing": "Yo-ho-ho"}[row.negative_input]
        assert "Concept: pirates" in row.positive_input
        assert row.concept_id == 3


def test_unusable_input_of_the_other_commands(
    run: Path, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    save_tiny(other, seed=1)
    empty = tmp_path / "empty.txt"
    empty.touch()
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "Hi"}\n')
    on = ["--model", str(model), "--device=cpu"]
    make = ["data", "make", *on, "--concept=Sing", "--out", str(tmp_path / "rows.csv")]
    for arguments, message in (
        (steer(tmp_path, "--prompt=Hi"), "holds no vector.safetensors"),
        (steer(run, "--prompt=Hi", f"--file={empty}"), "give either a prompt or a file"),
        (steer(run, "--prompt=Hi", f"--model={other}"), "this vector belongs to"),
        (steer(run, "--prompt="), "an instruction is empty"),
        (steer(run, "--prompt=Hi", "--temperature=-1"), "temperature is -1.0; give 0"),
        (steer(run, "--prompt=Hi", "--batch-tokens=0"), "the budget of a batch is 0"),
        (steer(run, "--file", str(tmp_path / "none.txt")), "there is no file"),
        (steer(run, "--file", str(empty)), "holds no instructions"),
        (steer(run, "--file", str(broken)), "has no column 'instruction'; it has prompt"),
        (evaluate(run, "--data", str(tmp_path / "none.csv")), "there is no file"),
        (evaluate(run, "--multipliers=[]"), "give at least one multiplier"),
        (["inspect", *on, "--data", str(data), "--row=10"], "row 10 is out of range"),
        ([*make, "--out", str(tmp_path / "rows.xlsx")], "choose .parquet, .csv, .jsonl"),
        ([*make, "--concept= "], "the concept is empty"),
        ([*make, "--template=Sing"], "the template must hold"),
        ([*make, "--count=9999"], "9999 instructions were asked for"),
        (["data", "check", *on, "--data", str(broken)], "has no column 'negative_input'"),
    ):
        assert message in error_of(arguments, capsys)


def test_compare_writes_tables_plots_and_vectors(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "comparison"
    changes = {"all": {"epochs": 1, "max_response_tokens": 6}, "loreft": {"layers": [1, 2]}}
    arguments = [
        *("compare", "--model", str(model), "--device", "cpu", "--data", str(data), "--layer", "1"),
        *("--out", str(out), "--methods", "cdas,diffmean,loreft,prompt", "--seeds", "[1, 2]"),
        *("--changes", json.dumps(changes), "--heldout", "3", "--rows", "4", "--unrelated", "1"),
        *("--multipliers", "[0.5, 1]", "--generations", "1", "--new_tokens", "4"),
        *("--wandb", "off"),
    ]
    assert main(arguments) == 0
    table = pd.read_csv(out / "table.csv")
    counts = table.groupby("method").size().to_dict()
    # Two seeds at two strengths; what draws nothing once; a text has one strength.
    assert counts == {"cdas": 4, "diffmean": 2, "loreft": 4, "prompt": 1}
    needed = "method concept seed rank multiplier elicitation_recovery suppression_recovery"
    needed += " heldout_jsd_elicit heldout_jsd_suppress kl_side_effect seconds parameters"
    assert set(needed.split()) <= set(table.columns)
    for name in ("summary.md", "comparison.html", "recovery.png", "tradeoff.png", "config.yaml"):
        assert (out / name).stat().st_size > 0
    monkeypatch.setattr(
        "concept_das.experiments.grid.train_vectors", None
    )  # nothing is left to train
    before = (out / "table.csv").read_bytes()
    assert main(arguments) == 0
    assert (out / "table.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cdas": {"epoch": 1}}, "changes for cdas name 'epoch'; choose from batch_size"),
        ({"all": {"seed": 1}}, "changes for cdas name 'seed'"),
        ({"lang": {"epochs": 1}}, "changes name 'lang', which is not among the methods"),
        ({"cdas": {"epochs": 0}}, "epochs is 0; it must be at least 1"),
    ],
)
def test_changes_that_cannot_be_made(
    changes: dict[str, Any], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", "--data", str(data), "--layer", "1", "--out", str(data.parent / "c")]
    arguments += ["--methods", "cdas", "--changes", json.dumps(changes), "--wandb", "off"]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
