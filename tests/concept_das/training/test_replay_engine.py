"""The replay engine gives what the plain pyvene path gives."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from concept_das.data.chat_format import ChatFormat
from concept_das.data.encoding import EncodedQuadruple, encode_quadruples
from concept_das.data.quadruples import Quadruple
from concept_das.methods.registry import METHODS
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_site
from concept_das.models.replay import ReplayError, projection_of
from concept_das.steering.positions import parse_positions
from concept_das.training.batch_loss import sum_losses
from concept_das.training.loop import build_losses, train_direction
from concept_das.training.options import EngineOptions
from concept_das.training.pyvene_engine import PyveneLosses
from concept_das.training.replay_engine import ReplayLosses
from concept_das.training.state_cache import CacheBudget
from interventions import DistributedInterchangeIntervention
from objectives import elicit_loss, suppress_loss
from tests.concept_das.helpers import (
    TRAINED,
    built_for,
    loss_of,
    plain_interchange,
    runs_of,
    terms_of,
)
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


def edits_of(intervention):
    """One concept, one site."""
    return [[{"interchange": intervention}]]


def _loss_and_gradient(losses, intervention, rows, direction, reduction="sequence", method="cdas"):
    intervention.zero_grad()
    loss = loss_of(losses, rows, direction, reduction, method)
    loss.backward()
    return loss.detach(), intervention.weight.grad.clone()


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 1])
def test_equals_pyvene_on_every_architecture(name, layer, rows):
    model = tiny_model(name)
    site = find_site(model, layer)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width, low_rank_dimension=2)
    arguments = (model, [site], edits_of(intervention), METHODS["cdas"])
    plain, engine = PyveneLosses(*arguments), ReplayLosses(*arguments, runs_of(rows))
    for direction in ("elicit", "suppress"):
        expected, expected_gradient = _loss_and_gradient(plain, intervention, rows, direction)
        found, gradient = _loss_and_gradient(engine, intervention, rows, direction)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_equals_the_losses_of_the_paper(reduction, rows):
    model = tiny_model("llama")
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width, low_rank_dimension=2)
    engine = ReplayLosses(model, [site], edits_of(intervention), METHODS["cdas"], runs_of(rows))
    for direction, objective in (("elicit", elicit_loss), ("suppress", suppress_loss)):
        passes = [getattr(row, direction) for row in rows]
        logits = [plain_interchange(model, 1, intervention.weight, one) for one in passes]
        students, teachers = (
            torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
            for part in zip(*logits, strict=True)
        )
        lengths = torch.tensor([len(one.base.response) for one in passes])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        found = loss_of(engine, rows, direction, reduction)
        expected = objective(students, teachers, mask, reduction)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", TINY_ARCHITECTURES)
@pytest.mark.parametrize("positions", ["all", "p2+s2", "prompt"])
def test_several_sites_and_concepts_equal_pyvene(name, positions, rows):
    """Three sites; each row of the batch uses its own concept's two directions at each of them."""
    model, span = tiny_model(name), parse_positions(positions)
    sites = [find_site(model, layer) for layer in (0, 1, 2)]
    cdas = METHODS["cdas"]
    interventions = [[cdas.interventions(site.width, 2) for site in sites] for _concept in range(3)]
    arguments = (model, sites, interventions, METHODS["cdas"])
    runs, parts = runs_of(rows), [2, 0, 1, 0, 0, 2, 1, 1]
    found = {}
    for losses in (
        PyveneLosses(*arguments, span),
        ReplayLosses(*arguments, runs, span=span),
    ):
        flat = [at["interchange"] for of_concept in interventions for at in of_concept]
        for intervention in flat:
            intervention.zero_grad()
        values = torch.cat(losses.token_losses(runs, parts))
        values.sum().backward()
        gradient = torch.stack([intervention.weight.grad for intervention in flat])
        found[type(losses)] = values.detach(), gradient
    (expected, expected_gradient), (values, gradient) = found.values()
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-6)
    assert (gradient.abs().amax(dim=2) > 1e-5).all()


@pytest.mark.parametrize("gigabytes", [None, 0.0])
def test_where_the_cache_is_changes_nothing(gigabytes, rows, tmp_path):
    model = tiny_model("gemma2")
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    arguments = (model, [site], edits_of(intervention), METHODS["cdas"])
    budget = CacheBudget(torch.device("cpu"), gigabytes, tmp_path)
    losses = ReplayLosses(*arguments, runs_of(rows), budget=budget)
    assert losses.keeps_logits == (gigabytes is None)
    assert bool(list(tmp_path.iterdir())) == (gigabytes == 0.0)
    found = _loss_and_gradient(losses, intervention, rows, "suppress")
    expected = _loss_and_gradient(PyveneLosses(*arguments), intervention, rows, "suppress")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_how_rows_are_packed_changes_only_rounding(rows):
    model = tiny_model("llama")
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    arguments = (model, [site], edits_of(intervention), METHODS["cdas"])
    losses = ReplayLosses(*arguments, runs_of(rows), batch_tokens=1)
    terms = METHODS["cdas"].terms(rows, "sequence", np.random.default_rng(0))
    found = []
    for budget in (1, 150, 10_000):
        intervention.zero_grad()
        sums = sum_losses(losses, {0: terms}, budget, backward=True)
        found.append((torch.tensor(list(sums[0].values())), intervention.weight.grad.clone()))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_equals_pyvene_for_every_method(name, reduction, architecture, rows):
    model, method = tiny_model(architecture), METHODS[name]
    sites, edits = built_for(model, name)
    parameters = [p for at_site in edits for one in at_site.values() for p in one.parameters()]
    with torch.no_grad():  # LoRA begins at zero, where half of its gradient is zero too
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))
    arguments = (model, sites, [edits], method)
    with method.installed(model, edits):
        plain = PyveneLosses(*arguments)
        engine = ReplayLosses(*arguments, runs_of(rows, name))
        for direction in {term.direction for term in terms_of(rows, name)}:
            losses = [loss_of(part, rows, direction, reduction, name) for part in (plain, engine)]
            torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
            expected, found = (
                torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses
            )
            assert sum(float(g.abs().max()) > 1e-4 for g in expected if g is not None) > 0
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_whole_run_ends_in_the_same_direction(rows):
    model = tiny_model("qwen2")
    site = find_site(model, 1)
    config = TrainingConfig(epochs=3, batch_size=2)
    found, expected = (
        train_direction(model, site, rows, config, heldout=rows[:1], engine=EngineOptions(engine))
        for engine in ("auto", "pyvene")
    )
    cosine = torch.cosine_similarity(found.weight, expected.weight).abs()
    assert float(cosine) > 0.999
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_constants_are_computed_once(rows):
    model = tiny_model("llama")
    site = find_site(model, 1)
    intervention = DistributedInterchangeIntervention(embed_dim=site.width)
    losses = ReplayLosses(model, [site], edits_of(intervention), METHODS["cdas"], runs_of(rows))
    first = loss_of(losses, rows, "suppress")
    calls = []
    site.blocks_below(model)[0].register_forward_pre_hook(lambda *_: calls.append(1))
    embedding_calls = []
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: embedding_calls.append(1))
    assert torch.equal(loss_of(losses, rows, "suppress"), first)
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
    losses = build_losses(model, [site], edits_of(intervention), "cdas", runs_of(rows))
    assert isinstance(losses, PyveneLosses)
    assert "cannot be replayed" in caplog.text


class _LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # Transposing the head's weight makes no new one.
        if (
            isinstance(result, torch.Tensor)
            and not result._is_view()
            and "view" not in str(function)
        ):
            self.size = max(self.size, result.numel())
        return result


@pytest.mark.parametrize("keep_logits", [True, False])
def test_a_steps_memory_does_not_grow_with_the_vocabulary(rows, monkeypatch, keep_logits):
    monkeypatch.setattr("concept_das.training.replay_engine.CHUNK_LOGITS", {"cpu": 200_000})
    terms = METHODS["cdas"].terms(rows, "sequence", np.random.default_rng(0))
    sizes = []
    for vocabulary in (20_000, 100_000):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=2,
                intermediate_size=4,
                num_hidden_layers=2,
                num_attention_heads=1,
            )
        ).eval()
        model.requires_grad_(False)
        site = find_site(model, 0)
        intervention = DistributedInterchangeIntervention(embed_dim=2)
        budget = CacheBudget(torch.device("cpu"), None if keep_logits else 1e-4)
        losses = ReplayLosses(
            model,
            [site],
            edits_of(intervention),
            METHODS["cdas"],
            runs_of(rows),
            budget=budget,
        )
        assert losses.keeps_logits == keep_logits
        with _LargestTensor() as largest:
            sum_losses(losses, {0: terms}, 10_000, backward=True)
        sizes.append(largest.size)
    assert sizes == [200_000, 200_000]
