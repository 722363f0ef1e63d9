import argparse
import builtins
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from concept_das.cli import parser as cli
from concept_das.cli.configs import method_of, underscored
from concept_das.cli.parser import COMMANDS, _groups, build_parser, main
from concept_das.data.reading import read_quadruples, to_frame
from concept_das.errors import TrainingError
from concept_das.methods.registry import METHODS
from concept_das.steering.artifact import load_vector
from concept_das.steering.vector import SteeringVector
from concept_das.words import DIRECTIONS
from tests.concept_das.helpers import ROWS, tiny_loaded
from tests.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

MORE_ROWS = [
    replace(
        row, negative_input=f"{row.negative_input} {i}", positive_input=f"{row.positive_input} {i}"
    )
    for i in range(2)
    for row in ROWS
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    to_frame(MORE_ROWS).to_parquet(path)
    return path


def training_options(model: Path, data: Path, out: Path) -> list[str]:
    return [
        *("train", "--model", str(model), "--device", "cpu", "--data", str(data)),
        *("--out", str(out), "--layer", "-3", "--heldout", "3", "--epochs", "2"),
        *("--batch_size", "4", "--max_response_tokens", "6", "--wandb", "off"),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path) -> Path:
    """A finished training run."""
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main(training_options(model, data, out)) == 0
    return out


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every parser of the command line, with the words that lead to it."""

    def below(words: str, parser: Any) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        yield words, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word in action.choices:
                    yield from below(f"{words} {word}".strip(), action._name_parser_map[word])

    yield from below("", build_parser())


def test_every_command_has_a_parser() -> None:
    assert {words for words, _ in parsers()} == {"", "data", *COMMANDS}


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = dict(parsers())[words]
    options = [action for action in parser._actions if action.option_strings]
    assert len(options) > 1
    for action in options:
        assert action.help, f"{action.option_strings} of {words} has no help"
    assert parser.description
    with pytest.raises(SystemExit) as caught:
        main([*words.split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for action in options:
        assert action.option_strings[-1] in text


def test_the_program_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for words in COMMANDS:
        assert words.split()[0] in text


def test_training_leaves_a_run(run: Path, model: Path) -> None:
    vector = SteeringVector.load(run / "vector", tiny_model())
    assert vector.layer == 1
    assert vector.model.name == str(model)
    kept, held = read_quadruples(run / "train.parquet"), read_quadruples(run / "heldout.parquet")
    assert (len(kept), len(held)) == (7, 3)
    assert sorted(map(MORE_ROWS.index, kept + held)) == list(range(10))
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert sum("heldout_loss" in record for record in history) == 2
    assert sum("gradient_norm" in record for record in history) == 4
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["layer"], config["heldout"], config["learning_rate"]) == (-3, 3, 0.04)


def test_a_run_repeated_from_its_config(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(out)]) == 0
    first, second = SteeringVector.load(run / "vector"), SteeringVector.load(out / "vector")
    for name in ("weight", "negative_factor", "positive_factor"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.describe() == second.describe()
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run, out)]
    assert {**configs[0], "out": ""} == {**configs[1], "out": ""}


def test_an_option_beside_a_config_wins(run: Path, tmp_path: Path) -> None:
    arguments = ["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "other")]
    assert main([*arguments, "--rank", "2", "--engine", "pyvene"]) == 0
    assert SteeringVector.load(tmp_path / "other/vector").rank == 2


def test_options_with_dashes(run: Path, model: Path, data: Path, tmp_path: Path) -> None:
    arguments = [
        word.replace("_", "-") if word.startswith("--") else word
        for word in training_options(model, data, tmp_path / "dashes")
    ]
    assert "--max-response-tokens" in arguments
    assert main([*arguments, "--source-token=-1"]) == 0
    found = SteeringVector.load(tmp_path / "dashes/vector")
    assert torch.equal(found.weight, SteeringVector.load(run / "vector").weight)


def test_a_vector_is_steered_in_the_chat_format_of_its_training(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(f"{{{{ strftime_now('%B') }}}}{CHAT_TEMPLATE}{{{{ closing }}}}")
    options = ["--chat-template", str(template), "--template-options", '{"closing": "Well,"}']
    out = tmp_path / "out"
    assert main([*training_options(model, data, out), *options, "--date=2026-01-31"]) == 0
    chat = load_vector(out / "vector").chat
    assert chat is not None
    assert (chat["options"], chat["date"]) == ({"closing": "Well,"}, "2026-01-31")
    template.unlink()  # the vector has its own copy
    assert main(["steer", "--vector", str(out / "vector"), "--prompt", "Hi"]) == 0
    assert "steered:" in capsys.readouterr().out


def test_steering_another_fine_tune_when_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(seed=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    steer = ["steer", "--vector", str(run / "vector"), "--model", str(tmp_path), "--prompt", "Hi"]
    assert main(steer) != 0
    assert "give allow_other_weights=True if this is a fine-tune" in capsys.readouterr().err
    assert main([*steer, "--allow-other-weights=True"]) == 0
    assert "steered:" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(
    run: Path, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "broken off"
    with monkeypatch.context() as patch:

        def interrupted(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr("concept_das.methods.base.measure_latents_at", interrupted)
        assert main(training_options(model, data, out)) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert (out / "progress/progress.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr("concept_das.training.loop.sum_losses", None)  # no step is left to do
        assert main(training_options(model, data, out)) == 0
    found = SteeringVector.load(out / "vector")
    assert torch.equal(found.weight, SteeringVector.load(run / "vector").weight)
    assert (out / "history.jsonl").read_text() == (run / "history.jsonl").read_text()


def test_evaluation_stands_beside_the_vector(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--vector", str(run / "vector"), "--multipliers", "[0.5, 1]"]
    arguments += ["--device", "cpu", "--batch-size", "2"]
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


def steer_options(run: Path, *more: str) -> list[str]:
    return ["steer", "--vector", str(run / "vector"), "--device=cpu", "--max-new-tokens=5", *more]


@pytest.mark.parametrize("words", COMMANDS)
def test_switches_need_no_value(words: str) -> None:
    parser = dict(parsers())[words]
    commands = [COMMANDS[words], *_groups(COMMANDS[words]).values()]
    annotated = {
        name: parameter.default
        for command in commands
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.annotation is bool
    }
    assert {a.dest for a in parser._actions if a.nargs == "?"} == set(annotated)
    required = [
        f"{underscored(action.option_strings[-1])}={'gguf' if action.dest == 'format' else 1}"
        for action in parser._actions
        if action.required
    ]
    for action in (action for action in parser._actions if action.dest in annotated):
        option = underscored(action.option_strings[-1])
        for given, expected in (
            ([option], True),
            ([f"{option}=true"], True),
            ([option, "true"], True),
            ([f"{option}=false"], False),
            ([], annotated[action.dest]),
        ):
            for arguments in ([*required, *given], [*given, *required]):
                assert parser.parse_args(arguments)[action.dest] is expected


def test_steering_a_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(steer_options(run, "--compare", "--prompt", "Hi")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "instruction: Hi"
    assert any(line.startswith("    steered: ") for line in lines)
    assert any(line.startswith("  unsteered: ") for line in lines)


def test_comparing_changes_neither_answer(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.txt").write_text("Hi\nName a fruit\nSing\n")
    batches: list[int] = []
    original = LlamaForCausalLM.generate

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append(len(kwargs["input_ids"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)

    def answers(*more: str) -> pd.DataFrame:
        out = tmp_path / "out.jsonl"
        options = steer_options(run, "--file", str(tmp_path / "in.txt"), "--out", str(out))
        assert main([*options, "--temperature=1.2", "--multiplier=3", *more]) == 0
        return pd.read_json(out, lines=True)

    both = answers("--compare")
    assert batches == [6]  # steered and unsteered in one batch
    assert both["steered"].equals(answers()["steered"])
    assert both["unsteered"].equals(answers("--multiplier=0", "--compare=true")["unsteered"])
    assert not both["steered"].equals(both["unsteered"])
    assert not both["steered"].equals(answers("--seed=1")["steered"])
    assert both["steered"].equals(answers("--batch-tokens=1")["steered"])
    assert batches[-3:] == [1, 1, 1]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_steering_a_file(run: Path, tmp_path: Path, suffix: str) -> None:
    texts = ["Hi", "Name a fruit", "Hi"]
    lines = texts if suffix == ".txt" else [json.dumps({"instruction": text}) for text in texts]
    file, out = tmp_path / f"in{suffix}", tmp_path / "out.jsonl"
    file.write_text("\n\n".join(lines) + "\n")
    options = steer_options(run, "--file", str(file), "--out", str(out), "--direction=suppress")
    assert main([*options, "--multiplier=3", "--rule=interpolate", "--compare=true"]) == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["instruction"] for answer in answers] == texts
    assert answers[0] == answers[2]
    assert all(set(answer) == {"instruction", "steered", "unsteered"} for answer in answers)


def test_sampling_at_the_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*more: str) -> str:
        lines = iter(["Hi there", ""])
        monkeypatch.setattr(builtins, "input", lambda _: next(lines))
        assert main(steer_options(run, *more)) == 0
        return capsys.readouterr().out.strip()

    sampling = ("--temperature=1.5", "--seed=2")
    assert main(steer_options(run, "--prompt=Hi there", *sampling)) == 0
    expected = capsys.readouterr().out.split("steered: ", 1)[1].strip()
    assert typed(*sampling) == expected
    assert typed(*sampling, "--seed=3") != expected
    assert typed() != expected


@pytest.mark.parametrize("end", ["empty line", "end of file"])
def test_steering_from_the_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    assert main(steer_options(run, "--prompt", "Hi there", "--multiplier=2.0")) == 0
    expected = capsys.readouterr().out.split("steered: ", 1)[1].strip()
    typed = iter(["Hi there", " Hi there ", ""] if end == "empty line" else ["Hi there"] * 2)
    prompts = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(typed)
        except StopIteration as stop:
            raise EOFError from stop

    monkeypatch.setattr(builtins, "input", read)
    assert main(steer_options(run, "--multiplier=2.0")) == 0
    assert prompts == ["> "] * 3
    assert capsys.readouterr().out.count(expected) >= 2


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


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("concept-das: ")]
    assert error.rstrip().endswith(line)  # one line, and nothing after it
    return line.removeprefix("concept-das: ")


def test_unusable_input_of_training(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = training_options(model, data, tmp_path / "run")
    several = tmp_path / "several.parquet"
    to_frame([replace(row, concept_id=i % 2) for i, row in enumerate(MORE_ROWS)]).to_parquet(
        several
    )
    for more, message in (
        (["--data", str(tmp_path / "none.csv")], "there is no file"),
        (["--model", str(tmp_path / "none")], "cannot load model"),
        (["--layer", "4"], "layer 4 is out of range"),
        (["--heldout", "10"], "cannot hold out 10 of 10 rows of concept 3"),
        (["--heldout", "0", "--patience", "1"], "needs held-out rows"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--rank", "99"], "rank 99 exceeds"),
        (["--source_token", "99"], "source_token 99 is outside the generation prompt"),
        (
            ["--data", str(several), "--heldout", "5"],
            "cannot hold out 5 of 5 rows of concept 0; some must train",
        ),
        (["--concept_id", "8"], "has no rows of concept 8"),
        (["--device", "toaster"], "cannot use device 'toaster'"),
        (["--device_map", "auto"], "give either device or device_map"),
    ):
        assert message in error_of([*options, *more], capsys)


def test_a_failed_training(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise TrainingError("the elicit loss is nan at step 1")

    monkeypatch.setattr("concept_das.training.loop.sum_losses", failing)
    assert "the elicit loss is nan" in error_of(training_options(model, data, tmp_path), capsys)


def test_unusable_input_of_the_other_commands(
    run: Path, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    empty = tmp_path / "empty.txt"
    empty.touch()
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "Hi"}\n')
    on = ["--model", str(model), "--device=cpu"]
    make = ["data", "make", *on, "--concept=Sing", "--out", str(tmp_path / "rows.csv")]
    for arguments, message in (
        (steer_options(tmp_path, "--prompt=Hi"), "holds no vector.safetensors"),
        (steer_options(run, "--prompt=Hi", f"--file={empty}"), "give either a prompt or a file"),
        (steer_options(run, "--prompt=Hi", f"--model={other}"), "this vector belongs to"),
        (steer_options(run, "--prompt="), "an instruction is empty"),
        (steer_options(run, "--prompt=Hi", "--temperature=-1"), "temperature is -1.0; give 0"),
        (steer_options(run, "--prompt=Hi", "--batch-tokens=0"), "the budget of a batch is 0"),
        (steer_options(run, "--file", str(tmp_path / "none.txt")), "there is no file"),
        (steer_options(run, "--file", str(empty)), "holds no instructions"),
        (steer_options(run, "--file", str(broken)), "has no column 'instruction'; it has prompt"),
        (
            ["evaluate", "--vector", str(run / "vector"), "--data", str(tmp_path / "none.csv")],
            "there is no file",
        ),
        (
            ["evaluate", "--vector", str(run / "vector"), "--device=cpu", "--multipliers=[]"],
            "give at least one multiplier",
        ),
        (["inspect", *on, "--data", str(data), "--row=10"], "row 10 is out of range"),
        ([*make, "--out", str(tmp_path / "rows.xlsx")], "choose .parquet, .csv, .jsonl"),
        ([*make, "--concept= "], "the concept is empty"),
        ([*make, "--template=Sing"], "the template must hold"),
        ([*make, "--count=9999"], "9999 instructions were asked for"),
        (["data", "check", *on, "--data", str(broken)], "has no column 'negative_input'"),
    ):
        assert message in error_of(arguments, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--data=x", "--out=y", "--layer=one"],
        ["train", "--data=x", "--out=y", "--layer=1", "--wings=2"],
        ["steer", "--vector=v", "--direction=up"],
    ],
    ids=" ".join,
)
def test_unusable_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_module_is_a_program(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["concept-das", "methods"])
    assert cli.main() == 0
    assert "cdas" in capsys.readouterr().out


def test_several_concepts_are_trained_in_one_run(tmp_path: Path, model: Path) -> None:
    rows = MORE_ROWS + [replace(row, concept_id=9, concept="Captain") for row in MORE_ROWS[2:]]
    to_frame(rows).to_parquet(tmp_path / "rows.parquet")
    options = training_options(model, tmp_path / "rows.parquet", tmp_path / "all")
    assert main([*options, "--together", "2"]) == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [
        "concept-3",
        "concept-9",
        "config.yaml",
    ]
    alone = training_options(model, tmp_path / "rows.parquet", tmp_path / "one")
    assert main([*alone, "--concept_id", "9"]) == 0
    together = SteeringVector.load(tmp_path / "all" / "concept-9" / "vector")
    single = SteeringVector.load(tmp_path / "one" / "vector")
    assert (together.concept, together.data_hash) == ("Captain", single.data_hash)
    torch.testing.assert_close(together.weight, single.weight, rtol=0, atol=1e-3)
    assert len(read_quadruples(tmp_path / "all" / "concept-9" / "heldout.parquet")) == 3


def defaults_of(arguments: list[str]) -> Any:
    required = ["--data", "rows.parquet", "--out", "out", "--layer", "1"]
    parser = build_parser(method_of([*arguments, *required]))
    return parser.parse_args(["train", *arguments, *required]).train


def test_a_method_brings_its_own_hyper_parameters(tmp_path: Path) -> None:
    for name, method in METHODS.items():
        options = defaults_of(["--method", name])
        for key, value in {**vars(method.config())}.items():
            assert options[key] == value, (name, key)
    assert defaults_of([]).method == "cdas"
    assert defaults_of(["--method=reps", "--epochs", "3"]).epochs == 3
    assert defaults_of(["--method=reps"]).batch_size == METHODS["reps"].config().batch_size
    parser = build_parser("lora")
    required = ["--data", "a", "--out", "b", "--layers", "[1]", "--ranks", "[2]"]
    assert parser.parse_args(["sweep", *required]).sweep.learning_rate == 9e-4
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: lang\nlearning_rate: 0.5\n")
    options = defaults_of(["--config", str(recipe)])
    assert (options.method, options.learning_rate, options.epochs) == ("lang", 0.5, 6)


def test_layers_of_a_method_that_acts_at_several(model: Path, data: Path, tmp_path: Path) -> None:
    options = training_options(model, data, tmp_path / "run")
    assert main([*options, "--method", "lora", "--layers", "[1, 2]"]) == 0
    vector = load_vector(tmp_path / "run/vector")
    assert vector.layers == (1, 2)
    evaluate = ["evaluate", "--vector", str(tmp_path / "run/vector"), "--multipliers", "[1]"]
    assert main([*evaluate, "--device", "cpu"]) == 0
    table = pd.read_csv(tmp_path / "run/evaluation.csv")
    assert table["gain_elicit"].notna().all()
    assert table["gain_suppress"].isna().all()
    export = ["export", "--vector", str(tmp_path / "run/vector"), "--format", "peft"]
    assert main([*export, "--out", str(tmp_path / "peft")]) == 0
    assert (tmp_path / "peft/adapter_config.json").exists()


def test_unknown_methods_stop_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--data", "none", "--out", "none", "--layer", "1", "--method", "magic"]
    assert main(arguments) == 2
    assert "unknown method 'magic'; choose one of cdas" in capsys.readouterr().err


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
