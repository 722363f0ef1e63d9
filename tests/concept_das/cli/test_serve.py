"""`concept-das serve`, up to where vLLM starts."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from concept_das.cli import main
from concept_das.cli import serve as command
from concept_das.cli.configs import gathered
from concept_das.data.chat_format import ChatFormat
from tests.concept_das.helpers import random_vector
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer


def test_vectors_and_flags_are_taken_one_after_the_other() -> None:
    words = ["serve", "--vector", "a", "b=dir", "--model", "m", "--vector=c", "--", "--port", "1"]
    assert gathered(words) == [
        *("serve", "--model", "m", "--vllm=--port 1"),
        *("--vector", "a", "b=dir", "c"),
    ]
    for others in ("steer --vector a --", "serve --model m", "play --port 1"):
        assert gathered(others.split()) == others.split()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The command that would be run in place of this process, on a machine with vLLM."""
    calls: list[Any] = []
    monkeypatch.setattr(command, "find_spec", lambda name: name)
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    return calls


def test_a_server_is_started(tmp_path: Path, started: list[Any]) -> None:
    model = save_tiny(tmp_path / "model")
    for name in ("one", "two"):
        random_vector(tiny_model(), prefix_length=1).save(tmp_path / name)
    vectors = [str(tmp_path / "one"), f"other={tmp_path / 'two'}"]
    flags = ["--port", "9000", "--dtype=bfloat16"]
    assert main(["serve", "--vector", *vectors, "--model", str(model), "--", *flags]) == 0
    ((program, words, environment),) = started
    assert program == words[0] == sys.executable
    config = json.loads(words[words.index("--additional-config") + 1])
    named = {"one": str(tmp_path / "one"), "other": str(tmp_path / "two")}
    assert config == {"concept_das": {"vectors": named}}
    assert words[-3:] == flags
    assert "--dtype" not in words
    assert words[words.index("--served-model-name") + 1] == str(model)
    assert environment["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert "concept_das" in environment["VLLM_PLUGINS"].split(",")


@pytest.mark.parametrize("given", [{"system_in_rows": True}, {"system": "Be brief."}])
def test_a_client_can_ask_as_in_training(
    tmp_path: Path, started: list[Any], given: dict[str, Any]
) -> None:
    model = save_tiny(tmp_path / "model")
    chat = ChatFormat.of(tiny_tokenizer(), **given)
    trained = {"system": chat.system, "chat": chat.description, "prefix_length": len(chat.prefix)}
    random_vector(tiny_model(), **trained).save(tmp_path / "one")
    assert main(["serve", "--vector", str(tmp_path / "one"), "--model", str(model)]) == 0
    assert started


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (["a=one", "a=two"], "one and two would both be named a; give NAME=FOLDER"),
        (["nowhere"], "holds no vector.safetensors"),
        (["one"], "belongs to LlamaForCausalLM"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
    capsys: pytest.CaptureFixture[str],
    vectors: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    other = save_tiny(tmp_path / "other", seed=1)
    random_vector(tiny_model()).save(tmp_path / "one")
    assert main(["serve", "--vector", *vectors, "--model", str(other)]) == 2
    assert reason in capsys.readouterr().err
    assert started == []


def test_without_vllm_the_remedy_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--vector", "pirate"]) == 2
    assert "pip install vllm" in capsys.readouterr().err
