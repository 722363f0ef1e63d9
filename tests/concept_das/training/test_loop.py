from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass, EncodedQuadruple
from concept_das.errors import InputError, TrainingError
from concept_das.methods.registry import find_method, trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training import loop as training
from concept_das.training.concept import TrainingResult, TrainingTask
from concept_das.training.loop import train_directions
from concept_das.training.options import EngineOptions
from concept_das.words import DIRECTIONS
from interventions import orthonormal_rows
from tests.concept_das.helpers import (
    PLANTED_ROWS,
    TRAINED,
    encoded_rows,
    plain_loss,
    planted_model,
    unchecked,
)
from tests.concept_das.training.runs import (
    BOTH_ENGINES,
    LAYER,
    InterruptingTracker,
    Stop,
    intervention_of,
    several_tasks,
    train,
    with_row,
)
from tests.tiny import LAYERS, WIDTH, tiny_model


@BOTH_ENGINES
@pytest.mark.parametrize(
    ("rank", "clip", "decay"), [(1, 0.01, 0.0), (1, 100.0, 0.1), (2, 1.0, 0.0)]
)
def test_one_step_by_hand(engine: Any, rank: int, clip: float, decay: float) -> None:
    model, rows = tiny_model(), encoded_rows()
    rate, epsilon = 0.05, 1e-8
    config = TrainingConfig(
        rank=rank,
        learning_rate=rate,
        epochs=1,
        batch_size=len(rows),
        gradient_clip=clip,
        weight_decay=decay,
        seed=7,
    )
    torch.manual_seed(7)
    start = intervention_of(rank).weight.detach().clone().requires_grad_()
    losses = [plain_loss(model, LAYER, start, rows, d) for d in DIRECTIONS]
    (gradient,) = torch.autograd.grad(sum(losses), start)
    elicit, suppress = (float(loss.detach()) for loss in losses)
    norm = gradient.norm()
    clipped = gradient * min(1.0, clip / float(norm))
    stepped = start.detach() * (1 - rate * decay) - rate * clipped / (clipped.abs() + epsilon)

    result = train(model, config, rows, engine=engine)
    torch.testing.assert_close(result.weight, orthonormal_rows(stepped), atol=1e-4, rtol=0)
    (record,) = result.history
    assert record["loss_elicit"] == pytest.approx(elicit, rel=1e-4)
    assert record["loss_suppress"] == pytest.approx(suppress, rel=1e-4)
    assert record["loss"] == pytest.approx(elicit + suppress, rel=1e-4)
    assert record["gradient_norm"] == pytest.approx(float(norm), rel=1e-3)
    assert record["learning_rate"] == rate
    overlap = (start.detach() @ result.weight.T).pow(2).sum() / rank
    assert record["drift"] == pytest.approx(float((1 - overlap).sqrt()), rel=1e-4)
    assert record["step"] == 1.0


def test_the_learning_rate_falls_to_zero() -> None:
    config = TrainingConfig(epochs=2, batch_size=2, learning_rate=0.06)
    history = train(tiny_model(), config).history
    assert [record["learning_rate"] for record in history] == pytest.approx(
        [0.06 * (1 - step / 6) for step in range(6)]
    )


def test_every_row_is_seen_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[EncodedQuadruple]] = []
    rows = encoded_rows()
    row_of = {row.elicit: row for row in rows}

    class Recording:
        def __init__(self, weight: Tensor) -> None:
            self.weight = weight

        def log_likelihood(self, turn: Turn) -> float:
            raise AssertionError("CDAS needs no reference")

        def token_losses(self, runs: Sequence[EditedPass], parts: Sequence[int]) -> list[Tensor]:
            seen.append([row_of[run] for run in runs if run in row_of])
            assert len(seen[-1]) * 2 == len(runs)  # both directions
            return [self.weight.pow(2).sum().expand(len(run.base.response)) for run in runs]

    monkeypatch.setattr(
        training,
        "build_losses",
        lambda model, sites, interventions, *_: Recording(
            interventions[0][0]["interchange"].weight
        ),
    )
    train(tiny_model(), TrainingConfig(epochs=3, batch_size=2), rows)
    assert [len(batch) for batch in seen] == [2, 2, 1] * 3
    orders = [[rows.index(row) for batch in seen[i : i + 3] for row in batch] for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(len(rows))) for order in orders)
    assert orders[0] != orders[1]


@BOTH_ENGINES
@pytest.mark.parametrize("rank", [1, 2])
def test_concepts_trained_together_end_as_if_alone(engine: Any, rank: int) -> None:
    model, config = tiny_model(), TrainingConfig(epochs=3, batch_size=2, rank=rank)
    site = find_site(model, LAYER)

    def trained(together: int) -> list[TrainingResult]:
        options = EngineOptions(engine, together=together)
        return train_directions(model, [site], several_tasks(), config, engine=options)

    alone = trained(1)
    for together in (2, 8):
        for found, expected in zip(trained(together), alone, strict=True):
            overlap = torch.linalg.matrix_norm(found.weight @ expected.weight.T) ** 2 / rank
            assert float(overlap) > 0.9999
            assert len(found.history) == len(expected.history)
            for ours, theirs in zip(found.history, expected.history, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_several_sites_have_directions_of_their_own() -> None:
    model, config = tiny_model(), TrainingConfig(epochs=2, batch_size=3, rank=2)
    sites = [find_site(model, layer) for layer in (2, 0)]
    task = TrainingTask(encoded_rows())
    found, expected = (
        train_directions(model, sites, [task], config, engine=EngineOptions(engine))[0]
        for engine in ("auto", "pyvene")
    )
    assert found.weights.shape == (2, 2, WIDTH)  # from the lowest block up
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=1e-3)
    assert not torch.allclose(found.weights[0], found.weights[1], atol=0.1)
    with pytest.raises(ValueError, match="the run has 2 sites; use weights"):
        _ = found.weight


def test_the_seed_decides_everything() -> None:
    config = TrainingConfig(epochs=2, batch_size=2)
    first = train(tiny_model(), config, heldout=encoded_rows(2))
    torch.rand(7)
    again = train(tiny_model(), config, heldout=encoded_rows(2))
    assert torch.equal(first.weight, again.weight)
    assert first.history == again.history
    other = train(tiny_model(), replace(config, seed=1))
    assert not torch.allclose(first.weight, other.weight)


@BOTH_ENGINES
def test_nan_in_the_weights_of_the_model(engine: Any) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[5, 5] = float("nan")
    message = r"the (elicit|suppress) loss is nan at step 1 \(epoch 1\), training row \d; load"
    with pytest.raises(TrainingError, match=message):
        train(model, TrainingConfig(batch_size=2), engine=engine)


@BOTH_ENGINES
def test_nan_in_one_row_names_the_row(engine: Any) -> None:
    model, rows = tiny_model(), with_row(3, "~")
    with torch.no_grad():
        model.get_input_embeddings().weight[rows[3].elicit.base.response[0]] = float("nan")
    with pytest.raises(TrainingError, match=r"\(epoch 1\), training row 3;"):
        train(model, TrainingConfig(batch_size=1), rows, engine=engine)


@BOTH_ENGINES
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(engine: Any, fails: bool) -> None:
    model = tiny_model()
    model.train()
    model.lm_head.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    tracker = InterruptingTracker(1 if fails else 99)
    try:
        train(model, TrainingConfig(epochs=1), engine=engine, tracker=tracker)
    except Stop:
        assert fails
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in vars(m) for m in model.modules())


@BOTH_ENGINES
def test_hooks_of_the_user_and_of_transformers_survive(engine: Any) -> None:
    model, calls = tiny_model(), []
    block, ids = model.model.layers[LAYER], torch.tensor([[5, 6]])
    block.register_forward_hook(lambda *_: calls.append("after"))
    block.register_forward_pre_hook(lambda *_, **__: calls.append("before"), with_kwargs=True)
    model(ids, output_hidden_states=True)
    train(model, TrainingConfig(epochs=1), engine=engine)
    calls.clear()
    assert len(model(ids, output_hidden_states=True).hidden_states) == LAYERS + 1
    assert calls == ["before", "after"]


def test_dropout_is_off_while_training() -> None:
    model = tiny_model("gpt2")
    config = TrainingConfig(epochs=1, batch_size=5)
    expected = train(model, config).history
    model.train()
    assert train(model, config).history == expected


def test_a_planted_direction_is_found() -> None:
    model, rows = planted_model(), encoded_rows(rows=PLANTED_ROWS)
    config = TrainingConfig(epochs=20, batch_size=2, learning_rate=0.1)
    result = train(model, config, rows, layer=0, heldout=rows)
    assert float(result.weight[0, 0].abs()) > 0.97
    losses = [record["heldout_loss"] for record in result.history if "heldout_loss" in record]
    assert losses[-1] < 0.1 * result.history[0]["loss"]


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_lowers_its_loss(method: str) -> None:
    model, rows = planted_model(), encoded_rows(rows=PLANTED_ROWS)
    layers = (0, 1, 2) if method.endswith("loreft") else (1, 2) if method == "lora" else ()
    config = find_method(method).config(
        layers=layers,
        epochs=8,
        batch_size=4,
        learning_rate=0.1,
        rank=1,
        positions="all" if method.startswith("prosv") else None,
    )
    sites = trained_method(method).sites(model, config.layers or (0,), config)
    (result,) = train_directions(model, sites, [TrainingTask(rows)], config)
    losses = [record["loss"] for record in result.history]
    assert losses[-1] < 0.9 * losses[0]
    assert not any(hasattr(module, "lora_A") for module in model.modules())


@pytest.mark.parametrize("architecture", ["gemma2", "phi3"])
def test_a_random_model_learns_too(architecture: str) -> None:
    config = TrainingConfig(epochs=10, batch_size=5, rank=2)
    history = train(tiny_model(architecture), config).history
    assert history[-1]["loss"] < history[0]["loss"] - 0.01


def test_rows_stay_orthonormal() -> None:
    result = train(tiny_model(), TrainingConfig(rank=3, epochs=3, batch_size=2, learning_rate=0.5))
    assert result.weight.dtype == torch.float32
    torch.testing.assert_close(result.weight @ result.weight.T, torch.eye(3), atol=1e-6, rtol=0)


def test_a_model_in_bfloat16_trains_a_float32_direction() -> None:
    model = tiny_model().to(torch.bfloat16)
    result = train(model, TrainingConfig(epochs=2, batch_size=5))
    assert result.weight.dtype == torch.float32
    exact = train(tiny_model(), TrainingConfig(epochs=2, batch_size=5))
    assert result.history[0]["loss"] == pytest.approx(exact.history[0]["loss"], rel=0.1)


def test_unusable_runs() -> None:
    with pytest.raises(InputError, match="there are no training rows"):
        train(tiny_model(), TrainingConfig(), [])
    with pytest.raises(InputError, match="needs held-out rows; hold some out"):
        train(tiny_model(), TrainingConfig(patience=1))
    with pytest.raises(InputError, match=f"rank 17 exceeds the model's width {WIDTH}"):
        train(tiny_model(), TrainingConfig(rank=17))
    with unchecked(), pytest.raises(InputError, match="unknown engine 'steam'; choose auto or py"):
        train(tiny_model(), TrainingConfig(), engine="steam")


def test_training_leaves_the_users_random_numbers_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(tiny_model(), TrainingConfig(epochs=1))
    assert torch.equal(torch.rand(3), expected)
