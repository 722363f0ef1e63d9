from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass, EncodedQuadruple
from concept_das.errors import InputError
from concept_das.methods.registry import METHODS, find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.training.batch_loss import sum_losses
from concept_das.training.loop import build_losses
from concept_das.training.vectors import train_vector
from concept_das.words import DIRECTIONS
from objectives import (
    REDUCTIONS,
    das_loss,
    elicit_loss,
    interchange_loss,
    kl_student_teacher,
    kl_teacher_student,
    reduce_tokens,
)
from tests.concept_das.helpers import (
    ROWS,
    TRAINED,
    block_of,
    encoded_rows,
    hooked,
    plain_hidden,
    plain_logits,
    tiny_chat,
    tiny_loaded,
)
from tests.tiny import WIDTH, tiny_model

STUDENT, TEACHER = torch.randn(2, 2, 3, 11, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[3, 1, 4], [1, 5, 0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_name_stands_for_its_objective(reduction: str) -> None:
    expected = {
        "cdas": elicit_loss(STUDENT, TEACHER, MASK, reduction),
        "kl_teacher_student": interchange_loss(
            STUDENT,
            TEACHER,
            MASK,
            reduction,
            kl_teacher_student,
        ),
        "kl_student_teacher": interchange_loss(
            STUDENT,
            TEACHER,
            MASK,
            reduction,
            kl_student_teacher,
        ),
        "das": das_loss(STUDENT, LABELS, MASK, reduction),
    }
    for name, value in expected.items():
        method = find_method(name)
        values = method.objective.plain(
            STUDENT.flatten(0, 1), TEACHER.flatten(0, 1), LABELS.flatten()
        )
        found = reduce_tokens(values.view(MASK.shape), MASK, reduction)
        torch.testing.assert_close(found, value)
    assert len({round(float(value), 6) for value in expected.values()}) == len(expected)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "apsr"])  # of states
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_per_token_is_the_same_loss(name: str, reduction: str) -> None:
    method = find_method(name)
    student = STUDENT.clone().requires_grad_()
    plain = method.objective.plain(student[MASK], TEACHER[MASK], LABELS[MASK])
    loss = reduce_tokens(torch.zeros(MASK.shape).masked_scatter(MASK, plain), MASK, reduction)
    (expected,) = torch.autograd.grad(loss, student)
    log_p, log_q = STUDENT[MASK].log_softmax(-1), TEACHER[MASK].log_softmax(-1)
    values, gradients = method.objective.with_gradient(
        log_p, log_q, LABELS[MASK], (torch.empty_like(log_p), torch.empty_like(log_p))
    )
    padded = torch.zeros(MASK.shape).masked_scatter(MASK, values)
    torch.testing.assert_close(reduce_tokens(padded, MASK, reduction), loss.detach())
    weights = MASK / MASK.sum(1, keepdim=True) / len(MASK) if reduction == "sequence" else MASK / 4
    torch.testing.assert_close(gradients * weights[MASK].unsqueeze(-1), expected[MASK])


def test_unknown_methods() -> None:
    with pytest.raises(InputError, match="unknown method 'magic'; choose one of cdas, kl_teacher"):
        find_method("magic")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.summary
    assert method.steering
    assert method.directions
    assert set(method.columns) <= {"concept", "negative_output", "positive_output"}
    assert method.config().method == name


LAYER, WEIGHT = 1, torch.nn.functional.normalize(torch.arange(1.0, WIDTH + 1)[None], dim=1)


def log_p(model: PreTrainedModel, turn: Turn, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Log-probability of a turn's response under a change of the hidden states, in plain torch."""
    prefix = turn.prompt.prefix_length

    def after_prefix(hidden: Tensor) -> Tensor:
        return torch.cat([hidden[:, :prefix], change(hidden[:, prefix:])], dim=1)

    with torch.no_grad(), hooked(block_of(model, LAYER), after_prefix):
        log_probabilities = plain_logits(model, turn).double().log_softmax(-1)
    return log_probabilities[range(len(turn.response)), turn.response].sum().reshape(1)


def loss_by_engine(
    model: PreTrainedModel, name: str, seed: int
) -> tuple[dict[str, float], list[EditedPass]]:
    """A method's loss of a batch at a given direction, and the runs that made it."""
    method, rows = METHODS[name], encoded_rows()
    edits = method.interventions(WIDTH, 1)
    with torch.no_grad():
        next(iter(edits.values())).weight.copy_(WEIGHT)
    terms = method.terms(rows, "sequence", np.random.default_rng(seed))
    runs = [run for term in terms for run in term.runs]
    site = find_site(model, LAYER)
    losses = build_losses(model, [site], [[edits]], name, runs)
    return sum_losses(losses, {0: terms}, 2048, backward=False)[0], runs


def same(hidden: Tensor) -> Tensor:
    return hidden


def adding(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda hidden: hidden + factor * WEIGHT


def nulling(hidden: Tensor) -> Tensor:
    return hidden - (hidden @ WEIGHT.T).clamp_min(0) * WEIGHT


def texts(row: EncodedQuadruple) -> tuple[Turn, Turn, Turn, Turn]:
    """y^c and y after x, y^c and y after x^c."""
    neutral, concept = row.elicit.base.prompt, row.suppress.base.prompt
    responses = row.elicit.base.response, row.suppress.base.response
    return tuple(p.with_response(r) for p in (neutral, concept) for r in responses)


def test_lang_is_the_likelihood_under_drawn_factors() -> None:
    model = tiny_model()
    found, runs = loss_by_engine(model, "lang", 3)
    factors = [run.factor for run in runs]
    assert set(factors) <= set(range(2, 21, 2))
    assert len(set(factors)) > 1
    means = []
    for row, factor in zip(encoded_rows(), factors, strict=True):
        turn = texts(row)[0]
        means.append(-log_p(model, turn, adding(factor)) / len(turn.response))
    assert found["elicit"] == pytest.approx(float(torch.cat(means).mean()), rel=1e-4)
    assert found["suppress"] == 0.0


def test_bipo_prefers_each_side_under_its_sign() -> None:
    model = tiny_model()
    found, _ = loss_by_engine(model, "bipo", 0)
    for direction, sign in (("elicit", 1), ("suppress", -1)):
        margins = []
        for row in encoded_rows():
            concept, neutral = texts(row)[:2]
            gains = [
                log_p(model, turn, adding(sign)) - log_p(model, turn, same)
                for turn in (concept, neutral)
            ]
            margins.append(sign * (gains[0] - gains[1]))
        expected = -torch.nn.functional.logsigmoid(torch.cat(margins)).mean()
        assert found[direction] == pytest.approx(float(expected), rel=1e-3)


def test_reps_steers_with_drawn_factors_and_suppresses_by_nulling_out() -> None:
    model = tiny_model()
    found, runs = loss_by_engine(model, "reps", 5)
    added = iter([run.factor for run in runs if run.edit == "add"])
    steer, suppress = [], []
    for row in encoded_rows():
        winner, loser, concept, neutral = texts(row)
        reference = log_p(model, loser, same) - log_p(model, winner, same)
        won = log_p(model, winner, adding(next(added))) / len(winner.response)
        lost = log_p(model, loser, adding(next(added))) / len(loser.response)
        steer.append(reference.clamp_min(1) * won - lost)
        reference = log_p(model, concept, same) - log_p(model, neutral, same)
        kept = log_p(model, neutral, nulling) / len(neutral.response)
        gone = log_p(model, concept, nulling) / len(concept.response)
        suppress.append(reference.clamp_min(1) * kept - gone)
    for direction, margins in (("elicit", steer), ("suppress", suppress)):
        expected = -torch.nn.functional.logsigmoid(torch.cat(margins)).mean()
        assert found[direction] == pytest.approx(float(expected), rel=1e-3)


def test_pdas_prefers_the_sources_response_under_the_interchange() -> None:
    model = tiny_model()
    found, _ = loss_by_engine(model, "pdas", 0)
    for direction in DIRECTIONS:
        margins = []
        for row in encoded_rows():
            concept_first = texts(row)
            winner, loser = concept_first[:2] if direction == "elicit" else concept_first[:1:-1]
            source = getattr(row, direction).source
            state = plain_hidden(model, LAYER, source)[source.prompt.source_position].detach()

            def swap(hidden: Tensor, state: Tensor = state) -> Tensor:
                return hidden + ((state - hidden) @ WEIGHT.T) @ WEIGHT

            reference = log_p(model, loser, same) - log_p(model, winner, same)
            won = log_p(model, winner, swap) / len(winner.response)
            lost = log_p(model, loser, swap) / len(loser.response)
            margins.append(reference.clamp_min(1) * won - lost)
        expected = -torch.nn.functional.logsigmoid(torch.cat(margins)).mean()
        assert found[direction] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("name", ["lang", "bipo", "reps"])
def test_added_vectors_keep_their_length_and_steer_by_addition(name: str) -> None:
    config = TrainingConfig(method=name, epochs=2, batch_size=2)
    trained = train_vector(tiny_loaded(), tiny_chat(), ROWS, [], LAYER, config)
    vector = trained.vector
    assert vector.operation == "add"
    assert float(vector.weight.norm()) != pytest.approx(1.0, abs=1e-3)
    assert float(vector.positive_factor) == -float(vector.negative_factor) > 0


def test_reps_suppresses_on_the_prompts_that_its_settings_name() -> None:
    reps, rows = find_method("reps"), encoded_rows()
    assert reps.rows(rows, reps.config()) is rows
    neutral = reps.rows(rows, reps.config(suppression_prompts="neutral"))
    for row, changed in zip(rows, neutral, strict=True):
        assert changed.elicit == row.elicit
        assert changed.suppress.base == row.elicit.base.prompt.with_response(
            row.suppress.base.response
        )
    # With a saved vector's record of it, and none where it is the method's own.
    found = {
        prompts: train_vector(
            tiny_loaded(),
            tiny_chat(),
            ROWS,
            [],
            1,
            reps.config(epochs=1, suppression_prompts=prompts),
        ).vector
        for prompts in ("concept", "neutral")
    }
    assert not torch.equal(found["concept"].weight, found["neutral"].weight)
    assert found["neutral"].recipe["suppression_prompts"] == "neutral"
    assert "suppression_prompts" not in found["concept"].recipe
