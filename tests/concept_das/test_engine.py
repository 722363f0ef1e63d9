"""The replay engine gives what the plain pyvene path gives."""

import pytest
import torch

from concept_das.chats import ChatFormat
from concept_das.data import EncodedQuadruple, Quadruple, encode_quadruples
from concept_das.engine import ReplayError, ReplayLosses, projection_of
from concept_das.methods import METHODS
from concept_das.plain import PyveneLosses
from concept_das.sites import find_site
from concept_das.training import TrainingConfig, build_losses, train_direction
from interventions import DistributedInterchangeIntervention
from tests.tiny import TINY_ARCHITECTURES, tiny_model, tiny_tokenizer

PAD = 0


@pytest.fixture(scope="module")
def rows() -> list[EncodedQuadruple]:
    """Rows of uneven length, long enough for the sliding windows of the tiny models."""
    chat = ChatFormat.of(tiny_tokenizer())
    return encode_quadruples(
        [
            Quadruple("name a tree " * (i + 1), "oak " * (4 - i), f"arr {i}", "matey " * (i + 1))
            for i in range(4)
        ],
        chat,
    )


def _loss_and_gradient(losses, intervention, rows, direction):
    intervention.zero_grad()
    loss = losses.loss(rows, direction)
    loss.backward()
    return loss.detach(), intervention.weight.grad.clone()


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1])
def test_equals_pyvene_on_every_architecture(name, layer, rows):
    model = tiny_model(name)
    site = find_site(model, layer)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width, low_rank_dimension=2)
    arguments = (model, site, intervention, METHODS["cdas"], "sequence", PAD)
    plain, engine = PyveneLosses(*arguments), ReplayLosses(*arguments, rows)
    for direction in ("elicit", "suppress"):
        expected, expected_gradient = _loss_and_gradient(plain, intervention, rows, direction)
        found, gradient = _loss_and_gradient(engine, intervention, rows, direction)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_equals_pyvene_for_every_method(method, reduction, rows):
    model = tiny_model("llama")
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    arguments = (model, site, intervention, METHODS[method], reduction, PAD)
    expected = _loss_and_gradient(PyveneLosses(*arguments), intervention, rows, "elicit")
    found = _loss_and_gradient(ReplayLosses(*arguments, rows), intervention, rows, "elicit")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_whole_run_ends_in_the_same_direction(rows):
    model = tiny_model("qwen2")
    site = find_site(model, 1)
    config = TrainingConfig(epochs=3, batch_size=2)
    found, expected = (
        train_direction(model, site, rows, config, pad_id=PAD, heldout=rows[:1], engine=engine)
        for engine in ("auto", "pyvene")
    )
    cosine = torch.cosine_similarity(found.weight, expected.weight).abs()
    assert float(cosine) > 0.999
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_the_model_is_left_as_it_was(rows):
    model = tiny_model("llama")
    site = find_site(model, 1)
    ids = torch.tensor([rows[0].elicit.base.ids])
    before = model(input_ids=ids).logits
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    losses = ReplayLosses(model, site, intervention, METHODS["cdas"], "token", PAD, rows)
    losses.loss(rows, "elicit").backward()
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_constants_are_computed_once(rows):
    model = tiny_model("llama")
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    losses = ReplayLosses(model, site, intervention, METHODS["cdas"], "token", PAD, rows)
    first = losses.loss(rows, "suppress")
    calls = []
    site.blocks_below(model)[0].register_forward_pre_hook(lambda *_: calls.append(1))
    embedding_calls = []
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: embedding_calls.append(1))
    assert torch.equal(losses.loss(rows, "suppress"), first)
    assert not embedding_calls  # the replay starts from hidden states


def test_a_model_that_does_something_else_falls_back_to_pyvene(rows, caplog):
    model = tiny_model("llama")

    class Doubling(torch.nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    head = Doubling(model.config.hidden_size, model.config.vocab_size, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    with pytest.raises(ReplayError, match="Doubling"):
        projection_of(model)
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    losses = build_losses(model, site, intervention, TrainingConfig(), PAD, rows)
    assert isinstance(losses, PyveneLosses)
    assert "cannot be replayed" in caplog.text
