import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_das.errors import InputError
from concept_das.methods.loreft import (
    LoreftTensors,
    build_loreft,
    loreft_edit,
    loreft_intervention,
    loreft_tensors,
)
from concept_das.models.blocks import find_site, replace_hidden
from interventions import orthonormal_rows, set_coordinates
from tests.tiny import WIDTH, tiny_model

RANK = 3


@pytest.fixture
def pyreft() -> Any:
    return pytest.importorskip("pyreft", reason="pyreft is not installed")


def random_tensors(dtype: torch.dtype = torch.float32) -> LoreftTensors:
    rotation = orthonormal_rows(torch.randn(RANK, WIDTH, dtype=dtype))
    weight, bias = torch.randn(RANK, WIDTH, dtype=dtype), torch.randn(RANK, dtype=dtype)
    return LoreftTensors(rotation, weight, bias)


def off_orthonormal(rotation: Tensor) -> float:
    rotation = rotation.detach()
    return float((rotation @ rotation.T - torch.eye(len(rotation))).abs().max())


def train(intervention: Any, steps: int = 3, **options: Any) -> None:
    """A few steps of pyreft's intervention on its own, by its own forward."""
    optimizer = torch.optim.AdamW(
        intervention.parameters(), **{"lr": 0.05, "weight_decay": 0.0, **options}
    )
    hidden = torch.randn(8, 2, WIDTH)
    for _ in range(steps):
        optimizer.zero_grad()
        (intervention(hidden) - 1).square().mean().backward()
        optimizer.step()


def test_the_edit_by_loops() -> None:
    rotation, weight, bias = tensors = random_tensors()
    hidden = torch.randn(2, 5, WIDTH)
    expected = hidden.clone()
    for i in range(2):
        for j in range(5):
            for r in range(RANK):
                gap = torch.dot(weight[r], hidden[i, j]) + bias[r]
                gap -= torch.dot(rotation[r], hidden[i, j])
                expected[i, j] += gap * rotation[r]
    torch.testing.assert_close(loreft_edit(hidden, *tensors), expected, atol=1e-5, rtol=1e-5)


def test_the_edit_does_nothing_where_it_learned_nothing() -> None:
    rotation, _, bias = random_tensors()
    hidden = torch.randn(4, WIDTH)
    edited = loreft_edit(hidden, rotation, rotation, torch.zeros_like(bias))
    torch.testing.assert_close(edited, hidden)


def test_with_a_constant_target_it_is_the_clamp() -> None:
    rotation, weight, bias = random_tensors()
    hidden = torch.randn(2, 4, WIDTH)
    edited = loreft_edit(hidden, rotation, torch.zeros_like(weight), bias)
    torch.testing.assert_close(edited, set_coordinates(hidden, rotation, bias))


def test_gradients_of_the_edit_match_finite_differences() -> None:
    hidden = torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True)
    tensors = [tensor.requires_grad_(True) for tensor in random_tensors(torch.float64)]
    assert torch.autograd.gradcheck(loreft_edit, (hidden, *tensors))


def test_float32_parameters_edit_bfloat16_states() -> None:
    tensors, hidden = random_tensors(), torch.randn(2, 3, WIDTH).bfloat16()
    edited = loreft_edit(hidden, *tensors)
    assert edited.dtype == torch.bfloat16
    assert torch.equal(edited, loreft_edit(hidden.float(), *tensors).bfloat16())


def test_pyrefts_own_forward_cannot_do_that(pyreft: Any) -> None:
    with pytest.raises(RuntimeError, match="same dtype"):
        build_loreft(WIDTH, RANK)(torch.randn(1, 2, WIDTH).bfloat16())


def test_what_is_built_is_float32_without_dropout(pyreft: Any) -> None:
    intervention = build_loreft(WIDTH, RANK)
    assert type(intervention) is pyreft.LoreftIntervention
    assert {p.dtype for p in intervention.parameters()} == {torch.float32}
    assert intervention.dropout.p == 0.0
    assert off_orthonormal(loreft_tensors(intervention).rotation) < 1e-6


@pytest.mark.parametrize("trained", [False, True])
def test_the_edit_is_pyrefts_forward(pyreft: Any, trained: bool) -> None:
    intervention = build_loreft(WIDTH, RANK)
    if trained:
        train(intervention)
    hidden = torch.randn(2, 5, WIDTH)
    edited = loreft_edit(hidden, *loreft_tensors(intervention))
    torch.testing.assert_close(edited, intervention(hidden), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(edited, hidden, atol=0.1)


def test_gradients_reach_pyrefts_parameters_through_the_tensors(pyreft: Any) -> None:
    intervention, hidden = build_loreft(WIDTH, RANK), torch.randn(2, 5, WIDTH)
    gradients = []
    for output in (intervention(hidden), loreft_edit(hidden, *loreft_tensors(intervention))):
        parameters = list(intervention.parameters())
        gradients.append(torch.autograd.grad(output.square().sum(), parameters))
    for theirs, ours in zip(*gradients, strict=True):
        assert bool((theirs != 0).any())
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, RANK, WIDTH])
def test_conversion_keeps_every_bit(pyreft: Any, rank: int) -> None:
    tensors = LoreftTensors(
        orthonormal_rows(torch.randn(rank, WIDTH)), torch.randn(rank, WIDTH), torch.randn(rank)
    )
    back = loreft_tensors(loreft_intervention(tensors))
    for found, expected in zip(back, tensors, strict=True):
        assert torch.equal(found, expected)


def test_a_trained_intervention_is_converted_exactly(pyreft: Any) -> None:
    intervention = build_loreft(WIDTH, RANK)
    train(intervention)
    copy = loreft_intervention(loreft_tensors(intervention))
    hidden = torch.randn(2, 5, WIDTH)
    assert torch.equal(copy(hidden), intervention(hidden))


def test_conversion_gives_the_same_each_time_and_leaves_the_generator_alone(pyreft: Any) -> None:
    tensors, before = random_tensors(), torch.random.get_rng_state()
    first = loreft_intervention(tensors)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    second = loreft_intervention(tensors)
    for name, value in torch.nn.Module.state_dict(first).items():
        assert torch.equal(torch.nn.Module.state_dict(second)[name], value), name


def by_pyreft(tensors: LoreftTensors) -> Any:
    intervention = build_loreft(WIDTH, RANK)
    rotation, weight, bias = tensors
    state = {"rotate_layer": rotation.T.contiguous(), "weight": weight, "bias": bias}
    intervention.load_state_dict(state)
    return intervention


@pytest.mark.parametrize(
    ("restore", "stays"), [(loreft_intervention, True), (by_pyreft, False)], ids=["ours", "pyreft"]
)
def test_training_goes_on_from_an_orthonormal_basis(
    pyreft: Any, restore: Callable[[LoreftTensors], Any], stays: bool
) -> None:
    """pyreft's own loading is the fault that the conversion is there to avoid."""
    intervention = restore(random_tensors())
    assert off_orthonormal(loreft_tensors(intervention).rotation) < 1e-6
    train(intervention)
    assert (off_orthonormal(loreft_tensors(intervention).rotation) < 1e-5) is stays


def test_weight_decay_erases_pyrefts_rotation(pyreft: Any) -> None:
    """Why the module says to train without."""
    intervention = build_loreft(WIDTH, RANK)
    train(intervention, steps=1, weight_decay=0.01)
    assert not loreft_tensors(intervention).rotation.any()


def test_pyrefts_state_in_and_out(pyreft: Any) -> None:
    intervention = build_loreft(WIDTH, RANK)
    state = intervention.state_dict()
    tensors = LoreftTensors.from_pyreft(state)
    for found, expected in zip(tensors, loreft_tensors(intervention), strict=True):
        assert torch.equal(found, expected)
    hidden = torch.randn(2, 5, WIDTH)
    assert torch.equal(by_pyreft(tensors)(hidden), intervention(hidden))


def test_a_state_of_pyrefts_default_precision_becomes_float32(pyreft: Any) -> None:
    default = pyreft.LoreftIntervention(embed_dim=WIDTH, low_rank_dimension=RANK)
    tensors = LoreftTensors.from_pyreft(default.state_dict())
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert torch.equal(tensors.weight, default.learned_source.weight.float())


def test_a_foreign_state_is_an_error() -> None:
    with pytest.raises(InputError, match="no rotate_layer"):
        LoreftTensors.from_pyreft({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})


def test_several_layers_by_their_paths(pyreft: Any) -> None:
    model, layers = tiny_model("llama"), (0, 1, 3)
    sites = [find_site(model, layer) for layer in layers]
    edits = [build_loreft(WIDTH, RANK) for _ in layers]
    ids, positions = torch.randint(3, 95, (2, 9)), [[0, 7, 8], [0, 5, 8]]

    handles = []
    for site, edit in zip(sites, edits, strict=True):
        tensors = loreft_tensors(edit)

        def hook(
            _module: Any, _args: Any, output: Any, tensors: LoreftTensors = tensors
        ) -> Tensor | tuple[Tensor, ...]:
            hidden = (output if isinstance(output, Tensor) else output[0]).clone()
            for row, chosen in enumerate(positions):
                hidden[row, chosen] = loreft_edit(hidden[row, chosen], *tensors)
            replaced: Tensor | tuple[Tensor, ...] = replace_hidden(output, hidden)
            return replaced

        handles.append(site.module(model).register_forward_hook(hook))
    with torch.no_grad():
        expected = model(ids).logits
    for handle in handles:
        handle.remove()

    reft = pyreft.get_reft_model(
        model,
        pyreft.ReftConfig(
            representations=[
                {"component": site.component, "low_rank_dimension": RANK, "intervention": edit}
                for site, edit in zip(sites, edits, strict=True)
            ]
        ),
    )
    locations = {"sources->base": (None, [positions] * len(layers))}
    _, output = reft({"input_ids": ids}, unit_locations=locations)
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)
    output.logits.square().mean().backward()
    for edit in edits:
        assert all(bool(p.grad.any()) for p in edit.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_rows_that_are_not_orthonormal_are_an_error(pyreft: Any) -> None:
    rotation, weight, bias = random_tensors()
    for bad in (1.01 * rotation, torch.full_like(rotation, torch.nan)):
        with pytest.raises(InputError, match="not orthonormal"):
            loreft_intervention(LoreftTensors(bad, weight, bias))


@pytest.mark.parametrize("rank", [0, WIDTH + 1])
def test_a_rank_outside_the_width_is_an_error(rank: int) -> None:
    with pytest.raises(InputError, match=f"give 1 to {WIDTH}"):
        build_loreft(WIDTH, rank)


def test_an_activation_function_is_an_error(pyreft: Any) -> None:
    intervention = pyreft.LoreftIntervention(
        embed_dim=WIDTH, low_rank_dimension=RANK, dtype=torch.float32, act_fn="relu"
    )
    with pytest.raises(InputError, match="activation function"):
        loreft_tensors(intervention)


def test_without_pyreft_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyreft", None)
    with pytest.raises(InputError, match=r"concept-das\[reft\].*--no-deps pyreft==0.1.0"):
        build_loreft(WIDTH, RANK)
