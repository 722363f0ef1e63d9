import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass, EncodedQuadruple, encode_quadruples
from concept_das.errors import InputError, TrainingError
from concept_das.methods.registry import find_method, trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training import loop as training
from concept_das.training.batch_loss import Losses
from concept_das.training.concept import TrainingResult, TrainingTask, subspace_distance
from concept_das.training.loop import build_losses, heldout_loss, train_direction, train_directions
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import NoTracker
from concept_das.words import DIRECTIONS
from interventions import DistributedInterchangeIntervention, orthonormal_rows
from tests.concept_das.helpers import (
    EVERY_ARCHITECTURE,
    PLANTED_ROWS,
    ROWS,
    TRAINED,
    encoded_rows,
    loss_of,
    plain_interchange,
    plain_loss,
    planted_model,
    runs_of,
    tiny_chat,
    unchecked,
)
from tests.tiny import LAYERS, WIDTH, tiny_model

BOTH_ENGINES = pytest.mark.parametrize("engine", ["auto", "pyvene"])

LAYER = 1


def intervention_of(rank: int = 1) -> DistributedInterchangeIntervention:
    return DistributedInterchangeIntervention(embed_dim=WIDTH, low_rank_dimension=rank)


def losses_of(
    model: PreTrainedModel,
    intervention: DistributedInterchangeIntervention,
    rows: Sequence[EncodedQuadruple],
    engine: Any = "pyvene",
    **options: Any,
) -> Losses:
    model.requires_grad_(False)
    config = TrainingConfig(**options)
    site = find_site(model, LAYER)
    chosen = EngineOptions(engine)
    runs = runs_of(rows, config.method)
    edits = {"interchange": intervention}
    return build_losses(model, [site], [[edits]], config.method, runs, chosen)


def train(
    model: PreTrainedModel,
    config: TrainingConfig,
    rows: Sequence[EncodedQuadruple] = encoded_rows(),
    layer: int = LAYER,
    engine: Any = "auto",
    **options: Any,
) -> TrainingResult:
    return train_direction(
        model,
        find_site(model, layer),
        rows,
        config,
        engine=EngineOptions(engine),
        **options,
    )


@EVERY_ARCHITECTURE
@BOTH_ENGINES
@pytest.mark.parametrize("rank", [1, 2])
def test_the_loss_is_the_papers(architecture: str, engine: Any, rank: int) -> None:
    """Row by row, unpadded, in plain torch: so it depends on no batch and no engine."""
    model, rows, intervention = tiny_model(architecture), encoded_rows(), intervention_of(rank)
    losses = losses_of(model, intervention, rows, engine)
    for direction in DIRECTIONS:
        expected = plain_loss(model, LAYER, intervention.weight.detach(), rows, direction)
        assert float(expected) > 0.01
        found = loss_of(losses, rows, direction)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def other_loss(method: str, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Per response token, in float64, by the definitions."""
    p, q = student.double().softmax(-1), teacher.double().softmax(-1)
    if method == "das":
        return -p.gather(-1, labels.unsqueeze(-1)).squeeze(-1).log()
    if method == "kl_teacher_student":
        return (q * (q / p).log()).sum(-1)
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("method", ["das", "kl_teacher_student", "kl_student_teacher"])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@BOTH_ENGINES
def test_the_losses_of_the_other_methods(method: str, reduction: str, engine: Any) -> None:
    model, rows, intervention = tiny_model(), encoded_rows(), intervention_of()
    losses = losses_of(model, intervention, rows, engine, method=method, reduction=reduction)
    for direction in DIRECTIONS:
        values = [
            other_loss(
                method,
                *plain_interchange(model, LAYER, intervention.weight.detach(), pair),
                torch.tensor(pair.base.response),
            )
            for pair in (getattr(row, direction) for row in rows)
        ]
        mean = torch.stack([value.mean() for value in values]).mean()
        expected = mean if reduction == "sequence" else torch.cat(values).mean()
        found = loss_of(losses, rows, direction, reduction, method)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def in_double(architecture: str) -> PreTrainedModel:
    """A tiny model in float64 with attention written out: GPT-2's other one fails in 4.45."""
    model = tiny_model(architecture)
    plain = type(model)._from_config(model.config, attn_implementation="eager")
    plain.load_state_dict(model.state_dict())
    return plain.double().eval()


# Llama's norms compute in float32 whatever the model's precision, so differences are coarse there.
@pytest.mark.parametrize(
    ("architecture", "step", "tolerance"), [("gpt2", 1e-5, 1e-7), ("llama", 1e-3, 1e-3)]
)
@BOTH_ENGINES
def test_the_gradient_of_the_objective(
    architecture: str, step: float, tolerance: float, engine: Any
) -> None:
    model, rows = in_double(architecture), encoded_rows(2)
    intervention = intervention_of().double()
    losses = losses_of(model, intervention, rows, engine)
    for direction in DIRECTIONS:
        loss_of(losses, rows, direction).backward()
    gradient = intervention.weight.grad
    assert gradient is not None
    weight = intervention.weight.detach()

    def objective(weight: Tensor) -> Tensor:
        with torch.no_grad():
            return sum(plain_loss(model, LAYER, weight, rows, d) for d in DIRECTIONS)

    for axis in torch.eye(WIDTH, dtype=torch.float64):
        move = step * axis.unsqueeze(0)
        numeric = (objective(weight + move) - objective(weight - move)) / (2 * step)
        assert float((gradient * axis).sum()) == pytest.approx(float(numeric), abs=tolerance)
    assert float(gradient.abs().max()) > 10 * tolerance


@BOTH_ENGINES
def test_a_loss_does_not_depend_on_the_company(engine: Any) -> None:
    model, rows = tiny_model("qwen2"), encoded_rows()
    losses = losses_of(model, intervention_of(), rows, engine)
    for direction in DIRECTIONS:
        together = loss_of(losses, rows, direction)
        alone = torch.stack([loss_of(losses, [row], direction) for row in rows])
        torch.testing.assert_close(alone.mean(), together, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(loss_of(losses, rows[::-1], direction), together)


@BOTH_ENGINES
def test_the_heldout_loss_weighs_rows_and_not_batches(engine: Any) -> None:
    model, rows, intervention = tiny_model(), encoded_rows(), intervention_of()
    losses = losses_of(model, intervention, rows, engine)
    budget = 3 * max(len(row.suppress.base.ids) for row in rows)  # several batches
    terms = find_method("cdas").terms(rows, "sequence", np.random.default_rng(0))
    found = heldout_loss(losses, terms, budget)
    expected = {
        d: float(plain_loss(model, LAYER, intervention.weight.detach(), rows, d))
        for d in DIRECTIONS
    }
    assert found == pytest.approx(expected, rel=1e-4)


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


def several_tasks(**options: Any) -> list[TrainingTask]:
    """Concepts of different sizes, so that one is finished while another still trains."""
    rows = encoded_rows()
    return [
        TrainingTask(rows[:2], rows[3:], name="small", **options),
        TrainingTask(rows, (), name="all", **options),
        TrainingTask(rows[1:4], rows[:1], name="some", **options),
    ]


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


def test_several_concepts_are_resumed_each_where_it_was(tmp_path: Path) -> None:
    model, config = tiny_model(), TrainingConfig(epochs=3, batch_size=2)
    site = find_site(model, LAYER)

    def tasks(at: int) -> list[TrainingTask]:
        trackers = [NoTracker(), InterruptingTracker(at), NoTracker()]
        return [
            replace(task, tracker=tracker, checkpoint=tmp_path / task.name)
            for task, tracker in zip(several_tasks(), trackers, strict=True)
        ]

    expected = train_directions(model, [site], several_tasks(), config)
    with pytest.raises(_Stop):
        train_directions(model, [site], tasks(5), config)
    resumed = train_directions(model, [site], tasks(99), config)
    for found, result in zip(resumed, expected, strict=True):
        assert float(torch.cosine_similarity(found.weight, result.weight)) > 0.9999
        assert [r["step"] for r in found.history] == [r["step"] for r in result.history]


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


class _Stop(Exception):
    pass


class InterruptingTracker(NoTracker):
    """Raises when the n-th record is logged; the next run with it goes through."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.records: list[Mapping[str, float]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise _Stop
        self.records.append(values)


# With three steps and a held-out record an epoch: within the first, at the second's last step,
# at its held-out record, within the third.
@pytest.mark.parametrize("at", [2, 7, 8, 10])
@pytest.mark.parametrize("options", [{}, {"rank": 2, "patience": 3, "method": "das"}], ids=str)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    tmp_path: Path, at: int, options: dict[str, Any]
) -> None:
    config = TrainingConfig(epochs=4, batch_size=2, **options)
    heldout = encoded_rows(2)
    expected = train(tiny_model(), config, heldout=heldout)
    tracker = InterruptingTracker(at)
    with pytest.raises(_Stop):
        train(tiny_model(), config, heldout=heldout, checkpoint=tmp_path, tracker=tracker)
    torch.rand(5)
    result = train(tiny_model(), config, heldout=heldout, checkpoint=tmp_path, tracker=tracker)
    assert torch.equal(result.weight, expected.weight)
    assert result.history == expected.history
    assert result.best_epoch == expected.best_epoch
    steps = [(r["step"], "heldout_loss" in r) for r in result.history]
    assert len(set(steps)) == len(steps)


def test_the_time_of_all_parts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second whenever it is read: at the start and at each epoch."""
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    config = TrainingConfig(epochs=4, batch_size=2)
    with pytest.raises(_Stop):  # in the third epoch
        tracker = InterruptingTracker(8)
        train(tiny_model(), config, checkpoint=tmp_path, tracker=tracker)
    assert train(tiny_model(), config, checkpoint=tmp_path).earlier_seconds == 2.0
    assert train(tiny_model(), config, checkpoint=tmp_path).earlier_seconds == 4.0
    assert train(tiny_model(), config).earlier_seconds == 0.0


def test_progress_of_earlier_releases_has_no_time(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=2)
    train(tiny_model(), config, checkpoint=tmp_path)
    path = tmp_path / "progress.safetensors"
    with safe_open(path, framework="pt") as file:
        numbers = json.loads(file.metadata()["progress"])
    assert numbers.pop("seconds") > 0
    save_file(load_file(path), path, metadata={"progress": json.dumps(numbers)})
    assert train(tiny_model(), config, checkpoint=tmp_path).earlier_seconds == 0.0


def test_concepts_trained_together_share_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    tasks = [replace(task, checkpoint=tmp_path / task.name) for task in several_tasks()]
    model = tiny_model()
    for _ in range(2):
        results = train_directions(
            model, [find_site(model, LAYER)], tasks, TrainingConfig(epochs=1, batch_size=9)
        )
    found = [result.earlier_seconds for result in results]
    assert found == pytest.approx([1 / 3, 2 / 3, 3 / 3])  # a tick as each of them ends its epoch


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=2)
    first = train(tiny_model(), config, checkpoint=tmp_path)
    tracker = InterruptingTracker(99)
    again = train(tiny_model(), config, checkpoint=tmp_path, tracker=tracker)
    assert tracker.records == []
    assert torch.equal(again.weight, first.weight)
    assert again.history == first.history
    assert [path.name for path in tmp_path.iterdir()] == ["progress.safetensors"]


def with_row(i: int, text: str) -> list[EncodedQuadruple]:
    rows = [replace(row, positive_output=text) if i == j else row for j, row in enumerate(ROWS)]
    return encoded_rows(rows=rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": TrainingConfig(epochs=1, learning_rate=0.02)}, "learning_rate"),
        ({"config": TrainingConfig(epochs=2)}, "epochs"),
        ({"config": TrainingConfig(epochs=1, rank=2)}, "rank"),
        (
            {"config": TrainingConfig(epochs=1, method="das", seed=1)},
            "method, method_settings, seed",
        ),
        ({"rows": encoded_rows()[::-1]}, "data, prompts"),
        ({"rows": with_row(4, "A mile")}, "data"),
        ({"heldout": encoded_rows(1)}, "data, prompts"),
        ({"rows": encode_quadruples(ROWS, tiny_chat(source_token=-2))}, "prompts"),
        ({"layer": 2}, "layers"),
        ({"model": tiny_model(seed=1)}, "model"),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_progress_of_another_run(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    arguments = {"model": tiny_model(), "config": TrainingConfig(epochs=1), "rows": encoded_rows()}
    train(**arguments, checkpoint=tmp_path)
    before = (tmp_path / "progress.safetensors").read_bytes()
    with pytest.raises(InputError, match=rf"progress of another run \({named} differ\); delete it"):
        train(**{**arguments, **change}, checkpoint=tmp_path)
    assert (tmp_path / "progress.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-8], lambda b: b[:20], lambda b: b"", lambda b: b[::-1]]
)
def test_damaged_progress(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    train(tiny_model(), TrainingConfig(epochs=1), checkpoint=tmp_path)
    path = tmp_path / "progress.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"progress.safetensors is damaged; delete it"):
        train(tiny_model(), TrainingConfig(epochs=1), checkpoint=tmp_path)


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[Tensor]:
    """Held-out losses from a list; returns the weights they were asked for."""
    weights: list[Tensor] = []

    def measured(losses: Any, *_: Any) -> dict[str, float]:
        weights.append(losses.interventions[0][0]["interchange"].weight.detach().clone())
        return {"elicit": values[len(weights) - 1], "suppress": 0.0}

    monkeypatch.setattr(training, "heldout_loss", measured)
    return weights


@pytest.mark.parametrize(
    ("patience", "values", "epochs", "best"),
    [
        (2, [3.0, 2.0, 2.5, 2.1, 1.0], 4, 2),
        (1, [3.0, 3.0, 1.0], 2, 1),
        (3, [5.0, 6.0, 4.0, 5.0, 5.0], 5, 3),
        (2, [5.0, 4.0, 3.0, 2.0, 1.0], 5, 5),
        (2, [float("nan"), 4.0, 5.0, 6.0, 1.0], 4, 2),
    ],
)
def test_early_stopping_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch, patience: int, values: list[float], epochs: int, best: int
) -> None:
    weights = scripted(monkeypatch, values)
    config = TrainingConfig(epochs=5, batch_size=3, patience=patience)
    result = train(tiny_model(), config, heldout=encoded_rows(1))
    assert len(weights) == epochs
    assert result.best_epoch == best
    assert torch.equal(result.weight, weights[best - 1])


def test_without_patience_the_last_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = scripted(monkeypatch, [1.0, 2.0, 3.0])
    config = TrainingConfig(epochs=3, batch_size=3)
    result = train(tiny_model(), config, heldout=encoded_rows(1))
    assert result.best_epoch == 3
    assert torch.equal(result.weight, weights[-1])


def test_an_early_stopped_run_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = scripted(monkeypatch, [1.0, 2.0, 0.5])
    config = TrainingConfig(epochs=3, batch_size=3, patience=1)
    arguments = {"heldout": encoded_rows(1), "checkpoint": tmp_path}
    first = train(tiny_model(), config, **arguments)
    again = train(tiny_model(), config, **arguments)
    assert len(weights) == 2
    assert again.best_epoch == first.best_epoch == 1
    assert torch.equal(again.weight, weights[0])


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
    except _Stop:
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
    sites = trained_method(method).sites(model, 0, config)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 1"),
        ({"max_response_tokens": 0}, "max_response_tokens is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be above 0"),
        ({"gradient_clip": -1.0}, "gradient_clip is -1.0; it must be above 0"),
        ({"reduction": "sum"}, "unknown reduction 'sum'; choose one of sequence, token"),
        ({"patience": -1}, "patience is -1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_unusable_configurations(options: dict[str, Any], message: str) -> None:
    with unchecked(), pytest.raises(InputError, match=message):
        TrainingConfig(**options)


def test_unusable_runs() -> None:
    with pytest.raises(InputError, match="there are no training rows"):
        train(tiny_model(), TrainingConfig(), [])
    with pytest.raises(InputError, match="needs held-out rows; hold some out"):
        train(tiny_model(), TrainingConfig(patience=1))
    with pytest.raises(InputError, match=f"rank 17 exceeds the model's width {WIDTH}"):
        train(tiny_model(), TrainingConfig(rank=17))
    with unchecked(), pytest.raises(InputError, match="unknown engine 'steam'; choose auto or py"):
        train(tiny_model(), TrainingConfig(), engine="steam")


def test_distance_of_subspaces() -> None:
    axes = torch.eye(4)
    assert subspace_distance(axes[:1], -axes[:1]) == 0.0
    assert subspace_distance(axes[:1], axes[1:2]) == 1.0
    turned = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    assert subspace_distance(axes[:1], turned) == pytest.approx(0.8)
    assert subspace_distance(axes[:2], axes[[1, 0]]) == 0.0
    assert subspace_distance(axes[:2], axes[[1, 2]]) == pytest.approx(0.5**0.5)


def test_progress_of_other_adapted_layers(tmp_path: Path) -> None:
    """LoRA starts from one site, whatever the layers that it adapts."""
    pytest.importorskip("peft", reason="LoRA needs peft")
    model, task = tiny_model(), TrainingTask(encoded_rows(), checkpoint=tmp_path)
    for layers in ((1, 2), (1, 3)):
        config = find_method("lora").config(epochs=1, rank=1, layers=layers)
        sites = trained_method("lora").sites(model, 0, config)
        if layers == (1, 2):
            train_directions(model, sites, [task], config)
    with pytest.raises(InputError, match=r"another run \(method_layers differ\)"):
        train_directions(model, sites, [task], config)


def test_training_leaves_the_users_random_numbers_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(tiny_model(), TrainingConfig(epochs=1))
    assert torch.equal(torch.rand(3), expected)
