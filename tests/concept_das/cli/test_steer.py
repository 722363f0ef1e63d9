"""The command `steer`: prompts, files and the terminal."""

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import LlamaForCausalLM

from concept_das.cli.parser import main
from concept_das.models import loading
from concept_das.models.loading import load_model
from concept_das.steering.artifact import load_vector
from concept_das.steering.conditions import Condition
from concept_das.steering.entries import Together
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import SteeringVector
from tests.concept_das.cli.world import steer, train
from tests.served import serving_vectors
from tests.tiny import CHAT_TEMPLATE, save_tiny


def test_a_vector_is_steered_in_the_chat_format_of_its_training(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(f"{{{{ strftime_now('%B') }}}}{CHAT_TEMPLATE}{{{{ closing }}}}")
    options = ["--chat-template", str(template), "--template-options", '{"closing": "Well,"}']
    out = tmp_path / "out"
    assert main(train(world, out, *options, "--date=2026-01-31")) == 0
    chat = load_vector(out / "vector").chat
    assert chat is not None
    assert (chat["options"], chat["date"]) == ({"closing": "Well,"}, "2026-01-31")
    template.unlink()  # the vector has its own copy
    assert main(["steer", "--vector", str(out / "vector"), "--prompt", "Hi"]) == 0
    assert "steered:" in capsys.readouterr().out


def test_steering_another_fine_tune_when_asked_for(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = steer(run, "--model", str(save_tiny(tmp_path, seed=1)), "--prompt", "Hi")
    assert main(command) != 0
    assert "give allow_other_weights=True if this is a fine-tune" in capsys.readouterr().err
    assert main([*command, "--allow-other-weights=True"]) == 0
    assert "steered:" in capsys.readouterr().out


def test_steering_a_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(steer(run, "--compare", "--prompt", "Hi")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "instruction: Hi"
    assert any(line.startswith("    steered: ") for line in lines)
    assert any(line.startswith("  unsteered: ") for line in lines)


def test_several_vectors_at_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = load_vector(run / "vector")
    assert isinstance(vector, SteeringVector)
    other = replace(vector, layer=0, concept="other").save(tmp_path / "an other")
    loaded = load_model(vector.model.name, device="cpu")
    together = Together(vector.at(3.0), replace(vector, layer=0).at(2.5, "suppress"))
    expected = generate_responses(
        loaded, loaded.tokenizer, ["Hi"], steering=together, max_new_tokens=5
    )
    command = steer(run, "--prompt", "Hi", "--multiplier=3")
    answers = []
    for also in ([f"{other} suppress 2.5"], [str(other)], [f"{other} 1", f"{other}  -1.5"], []):
        assert main([*command, *(["--also", *also] if also else [])]) in (0, 2)
        answers.append(capsys.readouterr())
    assert answers[0].out.splitlines()[1] == f"    steered: {expected[0]}"
    assert answers[1].out != answers[0].out
    assert "vector 1 (other) and vector 2 (other) clamp along the same direction" in answers[2].err
    assert answers[3].out not in (answers[0].out, "")


def test_steering_under_a_condition(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = load_vector(run / "vector")
    assert isinstance(vector, SteeringVector)
    command = steer(run, "--prompt", "Hi", "--compare", "--multiplier=3")
    for threshold, differ in ((-1e9, True), (1e9, False)):
        folder = Condition(vector, threshold).save(tmp_path / "condition")
        assert main([*command, "--when", str(folder)]) == 0
        _, *answers = capsys.readouterr().out.splitlines()
        texts = {line.split(": ", 1)[1] for line in answers}
        assert (len(texts) == 2) is differ
    assert main([*command, "--when", str(run / "vector")]) == 2
    assert "holds no condition.json" in capsys.readouterr().err


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
        options = steer(run, "--file", str(tmp_path / "in.txt"), "--out", str(out))
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
    options = steer(run, "--file", str(file), "--out", str(out), "--direction=suppress")
    assert main([*options, "--multiplier=3", "--rule=interpolate", "--compare=true"]) == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["instruction"] for answer in answers] == texts
    assert answers[0] == answers[2]
    assert all(set(answer) == {"instruction", "steered", "unsteered"} for answer in answers)


def test_a_server_steers_a_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    file.write_text("Hi\nName a fruit\n")
    options = steer(run, "--file", str(file), "--out", str(out), "--compare=true")
    assert main(options) == 0
    expected = out.read_text()
    vector = load_vector(run / "vector")
    with serving_vectors(load_model(vector.model.name), {"one": run / "vector"}) as served:
        monkeypatch.setattr(loading, "load_model", lambda *_, **__: pytest.fail("it was loaded"))
        assert main([*options, "--generator", served.url]) == 0
        assert len(served.requests) == 4
    assert out.read_text() == expected
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again, later and later
    assert main([*options, "--generator", "http://127.0.0.1:9/v1"]) != 0
    assert "127.0.0.1:9/v1 cannot be reached" in capsys.readouterr().err
    assert main(steer(run, "--generator", served.url)) != 0
    assert "generator is of a prompt or a file" in capsys.readouterr().err


def test_sampling_at_the_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*more: str) -> str:
        lines = iter(["Hi there", ""])
        monkeypatch.setattr(builtins, "input", lambda _: next(lines))
        assert main(steer(run, *more)) == 0
        return capsys.readouterr().out.strip()

    sampling = ("--temperature=1.5", "--seed=2")
    assert main(steer(run, "--prompt=Hi there", *sampling)) == 0
    expected = capsys.readouterr().out.split("steered: ", 1)[1].strip()
    assert typed(*sampling) == expected
    assert typed(*sampling, "--seed=3") != expected
    assert typed() != expected


@pytest.mark.parametrize("end", ["empty line", "end of file"])
def test_steering_from_the_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    assert main(steer(run, "--prompt", "Hi there", "--multiplier=2.0")) == 0
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
    assert main(steer(run, "--multiplier=2.0")) == 0
    assert prompts == ["> "] * 3
    assert capsys.readouterr().out.count(expected) >= 2
