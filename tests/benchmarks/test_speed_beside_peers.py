"""The comparison with other libraries is of the same work: the same answers, the same training."""

import logging
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import transformers

import benchmarks.speed.answers as answers_module
from benchmarks.speed.answers import PEERS, added_vectors, compare_answers, plot_answers, ways_of
from benchmarks.speed.training import compare_training, plot_training, to_equal_loss
from tests.concept_das.helpers import encoded_rows, tiny_chat, tiny_loaded

CHAT = tiny_chat()
PROMPTS = [CHAT.prompt(f"Hi {'x' * i}") for i in range(5)]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_adds_the_same_vector(name: str) -> None:
    if find_spec(name.replace("-", "_")) is None:  # importing repeng needs NumPy 1
        pytest.skip(f"{name} is not installed")
    loaded = tiny_loaded()
    vectors = added_vectors(loaded, 1, prefix_length=0, count=2)  # peers protect no prefix
    rows = [vectors[0], None, vectors[1], vectors[0], None]
    ways = ways_of(loaded, PROMPTS, 4)
    assert ways[name](rows) == ways["steered"](rows) != ways["unsteered"](rows)
    assert ways["unsteered"](rows) == ways["steered"]([None] * len(rows))


def test_ways_take_turns_and_a_missing_peer_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(answers_module, "find_spec", lambda _name: None)
    loaded = tiny_loaded()
    vectors = added_vectors(loaded, 1, len(CHAT.prefix))
    with caplog.at_level(logging.WARNING):
        table = compare_answers(loaded, PROMPTS, vectors, new_tokens=2, rounds=2)
    assert "repeng is not installed and left out" in caplog.text
    assert table[["way", "vectors"]].to_numpy().tolist() == [
        ["unsteered", "none"],
        ["steered", "one"],
        ["steered", "eight and none"],
    ]
    assert (table["low"] <= table["median"]).all()
    assert (table["median"] <= table["high"]).all()
    assert table["median"][0] == 1
    plot_answers(table, tmp_path / "answers.png")
    assert (tmp_path / "answers.png").read_bytes().startswith(b"\x89PNG")


def test_the_engine_trains_as_its_peers_do(tmp_path: Path) -> None:
    rows = encoded_rows()
    table = compare_training(tiny_loaded(), 1, rows[:4], rows[4:], epochs=2)
    losses = table.pivot(index="epoch", columns="way", values="heldout_loss")
    release = losses["release's loop, one block"]
    assert losses["engine, one block"].tolist() == pytest.approx(release.tolist(), rel=1e-5)
    if int(transformers.__version__.partition(".")[0]) < 5:  # which pyreft's trainer needs
        assert losses["engine"].tolist() == pytest.approx(losses["pyreft's trainer"].tolist())
    assert (table.groupby("way")["seconds"].diff().dropna() > 0).all()
    plot_training(table, tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_that_all_ways_reach() -> None:
    curves = {"slow": [0.5, 0.4, 0.3], "fast": [0.35, 0.29, 0.2]}
    table = pd.DataFrame(
        {"method": "cdas", "way": way, "epoch": i + 1, "seconds": 10.0 * i, "heldout_loss": loss}
        for way, losses in curves.items()
        for i, loss in enumerate(losses)
    )
    found = to_equal_loss(table).set_index("way")
    assert found["epoch"].to_dict() == {"slow": 3, "fast": 2}
    assert (found["target"] == 0.3).all()
