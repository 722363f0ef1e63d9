import math

import pytest
import torch

from concept_das.errors import InputError
from concept_das.methods.diffmean import diff_mean
from concept_das.methods.registry import find_method
from concept_das.steering.vector import SteeringVector
from concept_das.training.vectors import train_vector
from tests.concept_das.helpers import ROWS, plain_hidden, tiny_chat, tiny_loaded

DIM = 6


def test_by_hand() -> None:
    found = diff_mean(torch.tensor([[4.0, 1.0], [2.0, 7.0]]), torch.tensor([[0.0, 0.0]]))
    assert found.norm == pytest.approx(5.0)  # from (0, 0) to (3, 4)
    torch.testing.assert_close(found.direction, torch.tensor([0.6, 0.8]))


def test_adding_the_norm_along_the_direction_maps_one_mean_to_the_other() -> None:
    concept, neutral = 3 * torch.randn(7, DIM) + 1, torch.randn(4, DIM)
    found = diff_mean(concept, neutral)
    assert found.direction.norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(
        neutral.mean(0) + found.norm * found.direction, concept.mean(0), atol=1e-5, rtol=1e-5
    )


def test_swapping_the_two_turns_the_direction_round() -> None:
    concept, neutral = torch.randn(7, DIM), torch.randn(4, DIM)
    there, back = diff_mean(concept, neutral), diff_mean(neutral, concept)
    assert torch.equal(there.direction, -back.direction)
    assert there.norm == back.norm


def test_a_small_difference_on_a_large_mean_is_not_lost() -> None:
    """The residual stream has coordinates thousands of times larger than what tells texts apart."""
    states = torch.zeros(10_000, 2)
    states[:, 0] = 4096.0
    concept = states.clone()
    concept[:, 1] = 2**-10
    concept[::2, 0] += 1.0
    states[1::2, 0] += 1.0
    found = diff_mean(concept, states)
    assert found.norm == 2**-10
    assert found.direction.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_gives_a_float32_direction(dtype: torch.dtype) -> None:
    concept, neutral = torch.randn(300, DIM).to(dtype), torch.randn(200, DIM).to(dtype)
    found = diff_mean(concept, neutral)
    assert found.direction.dtype == torch.float32
    # Rounded once, at the end.
    difference = concept.double().mean(0) - neutral.double().mean(0)
    assert found.norm == pytest.approx(difference.norm().item(), rel=1e-12)
    assert torch.equal(found.direction, (difference / difference.norm()).float())


def test_no_graph_is_kept() -> None:
    states = torch.randn(3, DIM, requires_grad=True)
    assert not diff_mean(states, torch.randn(3, DIM)).direction.requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["concept", "neutral"])
def test_states_that_are_not_finite_are_an_error(bad: float, side: str) -> None:
    states = {"concept": torch.randn(3, DIM), "neutral": torch.randn(3, DIM)}
    states[side][1, 2] = bad
    with pytest.raises(InputError, match=f"the {side} states hold NaN or Inf"):
        diff_mean(states["concept"], states["neutral"])


def test_no_states_are_an_error() -> None:
    with pytest.raises(InputError, match="no neutral states"):
        diff_mean(torch.randn(3, DIM), torch.empty(0, DIM))


@pytest.mark.parametrize("states", [torch.zeros(4, DIM), torch.full((4, DIM), 0.1)])
def test_equal_means_are_an_error(states: torch.Tensor) -> None:
    with pytest.raises(InputError, match="the same mean"):
        diff_mean(states, states[:3])


def test_means_that_differ_by_rounding_are_an_error() -> None:
    states = 1000 * torch.randn(1000, DIM)
    with pytest.raises(InputError, match="the same mean"):
        diff_mean(states, states[torch.randperm(1000)])


def fitted(**changed: str) -> SteeringVector:
    config = find_method("diffmean").config(**changed)
    vector = train_vector(tiny_loaded(), tiny_chat(), ROWS, [], 1, config).vector
    assert isinstance(vector, SteeringVector)
    return vector


def test_at_the_source_token_it_is_the_difference_of_the_two_kinds_of_prompts() -> None:
    def mean(texts: list[str]) -> torch.Tensor:
        model, chat = tiny_loaded().model, tiny_chat()
        prompts = [chat.prompt(text) for text in texts]
        states = [plain_hidden(model, 1, prompt.with_response(()))[-1] for prompt in prompts]
        return torch.stack(states).mean(0)

    difference = mean([row.positive_input for row in ROWS]) - mean(
        [row.negative_input for row in ROWS]
    )
    vector = fitted(means="source_token")
    torch.testing.assert_close(
        vector.weight[0], difference / difference.norm(), atol=1e-5, rtol=1e-5
    )
    # One is the way from one mean to the other.
    assert vector.positive_factor.item() == pytest.approx(difference.norm().item(), rel=1e-4)
    assert vector.negative_factor.item() == -vector.positive_factor.item()
    assert vector.recipe["means"] == "source_token"


def test_by_default_every_token_counts_and_the_record_is_that_of_earlier_releases() -> None:
    vector = fitted()
    assert vector.weight.tolist() == fitted(means="all").weight.tolist()
    assert "means" not in vector.recipe
    assert not torch.allclose(vector.weight, fitted(means="source_token").weight, atol=1e-2)
