"""Factors that are trained: where they begin, what clips them, and what the vector keeps."""

import pytest
import torch

from concept_das.methods.registry import trained_method
from concept_das.models.blocks import find_site
from concept_das.steering.factors import measure_latents
from concept_das.training.concept import ConceptRun, TrainingTask
from concept_das.training.vectors import train_vector
from tests.concept_das.helpers import ROWS, encoded_rows, tiny_chat, tiny_config, tiny_loaded
from tests.tiny import WIDTH, tiny_model


def test_factors_begin_at_the_sources_means_along_the_first_directions() -> None:
    model, config = tiny_model(), tiny_config("cdas_learned", rank=2)
    sites = [find_site(model, layer) for layer in (0, 2)]
    run = ConceptRun(TrainingTask(encoded_rows()), config, model, sites)
    for site, at_site in zip(sites, run.interventions, strict=True):
        elicit, suppress = at_site["elicit"], at_site["suppress"]
        assert elicit.weight is suppress.weight
        latents = measure_latents(model, site, elicit.weight.detach(), encoded_rows())
        torch.testing.assert_close(elicit.factor.detach(), latents.positive_factor)
        torch.testing.assert_close(suppress.factor.detach(), latents.negative_factor)


@pytest.mark.parametrize("name", ["cdas_learned", "prosv_lang", "prosv_simpo"])
def test_the_vector_keeps_the_learned_factors(name: str) -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    config = tiny_config(name, epochs=2, batch_size=2, factor_learning_rate=0.5, layers=(1, 2))
    vectors = [
        train_vector(loaded, chat, ROWS, [], None, one).vector
        for one in (config, tiny_config(name, epochs=2, batch_size=2, layers=(1, 2)))
    ]
    for slow, fast in zip(vectors[0].sites, vectors[1].sites, strict=True):
        assert not torch.allclose(slow.positive_factor, fast.positive_factor)
        if name.startswith("prosv"):
            assert torch.equal(slow.negative_factor, -slow.positive_factor)
            # It moved from 4 sqrt(n) by no more than the learning rate a step.
            assert 0 < abs(float(slow.positive_factor) - 4 * WIDTH**0.5) <= 0.5 * 6
        else:
            assert not torch.allclose(slow.negative_factor, fast.negative_factor)
            torch.testing.assert_close(slow.weight.norm(), torch.tensor(1.0))


def test_a_factor_has_its_own_rate_and_is_not_clipped() -> None:
    config = tiny_config("prosv_lang", factor_learning_rate=3.0, learning_rate=0.25)
    model = tiny_model()
    run = ConceptRun(TrainingTask(encoded_rows()), config, model, [find_site(model, 1)])
    addition = run.interventions[0]["add"]
    before = {name: value.detach().clone() for name, value in addition.named_parameters()}
    addition.weight.grad = torch.full_like(addition.weight, 1e3)
    addition.factor.grad = torch.full_like(addition.factor, 1e3)
    run.step({"elicit": 1.0})
    moved = {name: before[name] - value for name, value in addition.named_parameters()}
    # Adam's first step is the learning rate, whatever the gradient's size.
    torch.testing.assert_close(moved["weight"].detach(), torch.full((1, WIDTH), 0.25))
    torch.testing.assert_close(moved["factor"].detach(), torch.tensor([3.0]))
    assert run.state.history[-1]["gradient_norm"] == pytest.approx(1e3 * WIDTH**0.5)


@pytest.mark.parametrize(
    ("method", "positions", "message"),
    [
        ("loreft", "all", "loreft edits the ends of the prompt; give positions such as p5"),
        ("lora", "prompt", "lora adapts every token; leave out positions prompt"),
        ("cdas", "some", "unknown positions 'some'"),
    ],
)
def test_positions_that_a_method_cannot_edit(method: str, positions: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained_method(method).span(positions)
