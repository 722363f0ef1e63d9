from typing import Any

import pytest
import pyvene as pv
import torch
from torch import Tensor

from concept_das.models.blocks import find_site
from interventions import (
    AdditiveIntervention,
    NullOutIntervention,
    add_direction,
    coordinates,
    null_out,
    orthonormal_rows,
)
from tests.interventions.cases import record_calls
from tests.tiny import WIDTH, tiny_model

DIM = 10
KINDS = pytest.mark.parametrize("kind", [AdditiveIntervention, NullOutIntervention])


def test_adding_by_hand() -> None:
    intervention = AdditiveIntervention(
        weight=torch.tensor([[3.0, 4.0]]), factor=torch.tensor([-0.5])
    )
    output = intervention(torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]))
    assert output.tolist() == [[[-0.5, 0.0], [-1.5, -2.0]]]


def test_nulling_out_by_hand() -> None:
    intervention = NullOutIntervention(weight=torch.tensor([[3.0, 4.0]]))
    # w . h is 11, 0 and -11, w . w is 25: only what points along w goes.
    output = intervention(torch.tensor([[[1.0, 2.0], [4.0, -3.0], [-1.0, -2.0]]]))
    expected = torch.tensor([[[1 - 33 / 25, 2 - 44 / 25], [4.0, -3.0], [-1.0, -2.0]]])
    torch.testing.assert_close(output, expected)


def test_what_is_added_depends_on_the_factor_and_not_on_the_state() -> None:
    intervention = AdditiveIntervention(weight=torch.randn(1, DIM), factor=torch.tensor([2.0]))
    base = torch.randn(2, 3, DIM)
    moved = intervention(base) - base
    torch.testing.assert_close(moved, (2 * intervention.weight).expand_as(moved))


def test_one_factor_per_batch_row() -> None:
    intervention = AdditiveIntervention(weight=torch.randn(1, DIM), factor=torch.tensor([9.0]))
    base, factors = torch.randn(3, 2, DIM), torch.tensor([2.0, 0.0, -40.0])
    output = intervention(base, row_factors=factors)
    for i, factor in enumerate(factors):
        torch.testing.assert_close(output[i], base[i] + factor * intervention.weight)
    assert torch.equal(output[1], base[1])


def test_row_factors_serve_several_sequences_per_prompt() -> None:
    intervention, base = AdditiveIntervention(embed_dim=DIM), torch.randn(2, 3, DIM)
    factors = torch.tensor([1.0, -3.0])
    repeated = intervention(base.repeat_interleave(2, 0), row_factors=factors)
    expected = intervention(base, row_factors=factors).repeat_interleave(2, 0)
    torch.testing.assert_close(repeated, expected)


def test_row_factors_and_a_choice_of_directions_go_together() -> None:
    intervention = AdditiveIntervention(weight=torch.randn(3, DIM))
    base = torch.randn(3, 2, DIM)
    output = intervention(
        base, subspaces=[[1], [], [0, 2]], row_factors=torch.tensor([2.0, 5.0, -1.0])
    )
    w = intervention.weight
    torch.testing.assert_close(output[0], base[0] + 2 * w[1])
    assert torch.equal(output[1], base[1])
    torch.testing.assert_close(output[2], base[2] - w[0] - w[2], atol=1e-5, rtol=1e-5)


def test_opposite_factors_undo_each_other() -> None:
    intervention, base = AdditiveIntervention(embed_dim=DIM), torch.randn(1, 4, DIM)
    there = intervention(base, row_factors=torch.tensor([3.0]))
    torch.testing.assert_close(intervention(there, row_factors=torch.tensor([-3.0])), base)


def test_nulling_out_leaves_nothing_along_the_direction_and_all_else() -> None:
    weight, base = 7 * torch.randn(1, DIM), torch.randn(4, 25, DIM)
    output = null_out(base, weight)
    before, after = coordinates(base, weight), coordinates(output, weight)
    torch.testing.assert_close(after, before.clamp_max(0.0), atol=1e-4, rtol=1e-4)
    rest = torch.eye(DIM) - weight.T @ weight / weight.square().sum()
    torch.testing.assert_close(output @ rest, base @ rest, atol=1e-5, rtol=1e-5)
    assert torch.equal(output[before[..., 0] < 0], base[before[..., 0] < 0])


def test_nulling_out_does_not_depend_on_the_length_of_the_direction() -> None:
    weight, base = torch.randn(1, DIM), torch.randn(2, 5, DIM)
    torch.testing.assert_close(null_out(base, 0.01 * weight), null_out(base, 100 * weight))


def test_nulling_out_twice_is_nulling_out_once() -> None:
    weight, base = orthonormal_rows(torch.randn(2, DIM)), torch.randn(2, 5, DIM)
    once = null_out(base, weight)
    torch.testing.assert_close(null_out(once, weight), once, atol=1e-6, rtol=1e-6)


@KINDS
def test_a_direction_of_zeros_does_nothing_and_can_be_trained(kind: Any) -> None:
    """BiPO begins at zero."""
    intervention = kind(weight=torch.zeros(1, DIM))
    base = torch.randn(2, 3, DIM)
    output = intervention(base)
    assert torch.equal(output, base)
    output.sum().backward()
    assert torch.isfinite(intervention.weight.grad).all()


@pytest.mark.parametrize("rows", [(), (2,)], ids=["shared", "per row"])
def test_gradients_match_finite_differences(rows: tuple[int, ...]) -> None:
    base, weight = torch.randn(2, 2, DIM), torch.randn(*rows, 2, DIM)
    factor = torch.randn(2) if not rows else torch.randn(2, 1, 2)
    inputs = [x.double().requires_grad_(True) for x in (base, weight, factor)]
    assert torch.autograd.gradcheck(add_direction, inputs)
    assert torch.autograd.gradcheck(null_out, inputs[:2])


def test_one_factor_for_directions_that_differ_by_row() -> None:
    base, weight = torch.randn(3, 2, DIM), torch.randn(3, 1, DIM)
    torch.testing.assert_close(add_direction(base, weight, torch.tensor([2.0])), base + 2 * weight)


@KINDS
def test_the_length_of_the_direction_is_free_until_retracted(kind: Any) -> None:
    intervention, base, target = kind(embed_dim=DIM), torch.randn(2, 4, DIM), 5 * torch.randn(DIM)
    assert intervention.weight.norm().item() == pytest.approx(1.0)
    optimizer = torch.optim.AdamW([intervention.weight], lr=0.2)
    for _ in range(5):
        optimizer.zero_grad()
        (intervention(base) - target).square().mean().backward()
        optimizer.step()
    trained = intervention.weight.detach().clone()
    assert abs(trained.norm().item() - 1.0) > 0.05
    intervention.retract()
    torch.testing.assert_close(intervention.weight, trained / trained.norm())


@KINDS
def test_the_given_directions_keep_their_length(kind: Any) -> None:
    weight = 3 * torch.randn(2, DIM)
    intervention = kind(weight=weight)
    assert torch.equal(intervention.weight, weight)
    assert intervention.weight.requires_grad
    weight.zero_()
    assert bool(intervention.weight.any())  # a copy, not a view


def test_one_parameter_trained_both_ways() -> None:
    """RePS, as the docstring says."""
    add, null = AdditiveIntervention(embed_dim=DIM), NullOutIntervention(embed_dim=DIM)
    null.weight = add.weight
    base = torch.randn(2, 6, DIM)
    gradients = [torch.autograd.grad(f(base).square().sum(), add.weight)[0] for f in (add, null)]
    (add(base).square().sum() + null(base).square().sum()).backward()
    assert add.weight.grad is not None
    torch.testing.assert_close(add.weight.grad, sum(gradients))
    assert all(bool(gradient.any()) for gradient in gradients)


def mask_of(*rows: str) -> Tensor:
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


# The mask, the width of the base, and where the edit should fall.
MASKS = {
    "prompt": (("..xx", ".x.x"), 4, ("..xx", ".x.x")),
    "grown": (("..xx", ".x.x"), 6, ("..xxxx", ".x.xxx")),
    "new token": (("....", "...."), 1, ("x", "x")),
    "two per prompt": (("..xx",), 4, ("..xx", "..xx")),
}


@KINDS
@pytest.mark.parametrize(("mask", "width", "expected"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_position_mask_spans_the_prompt(
    kind: Any, mask: tuple[str, ...], width: int, expected: tuple[str, ...], dtype: torch.dtype
) -> None:
    intervention = kind(weight=torch.randn(1, DIM))
    base = torch.randn(2, width, DIM)
    base += (0.1 - coordinates(base, intervention.weight).clamp_max(0.0)) * intervention.weight
    base = base.to(dtype)
    output = intervention(base, position_mask=mask_of(*mask))
    edited, everywhere = mask_of(*expected), intervention(base)
    assert output.dtype == dtype
    assert torch.equal(output[edited], everywhere[edited])
    assert torch.equal(output[~edited], base[~edited])
    assert not (everywhere == base).all(dim=-1).any()


@KINDS
def test_a_mask_over_one_token_is_an_error(kind: Any) -> None:
    with pytest.raises(ValueError, match="cannot tell the prompt from new tokens"):
        kind(embed_dim=DIM)(torch.randn(1, 1, DIM), position_mask=torch.tensor([[False]]))


@KINDS
def test_a_saved_state_is_taken_by_an_empty_one(kind: Any) -> None:
    saved, fresh, base = kind(weight=torch.randn(3, DIM)), kind(), torch.randn(2, 3, DIM)
    if kind is AdditiveIntervention:
        saved.factor.copy_(torch.tensor([2.0, -1.0, 0.5]))
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh(base), saved(base))


def test_a_training_step_with_drawn_factors() -> None:
    """As the docstring calls it."""
    model = tiny_model("llama")
    intervention = AdditiveIntervention(embed_dim=WIDTH)
    steered = pv.IntervenableModel(
        {"component": find_site(model, 1).component, "intervention": intervention}, model
    )
    calls = record_calls(intervention)
    _, output = steered(
        {"input_ids": torch.randint(3, 95, (2, 6))},
        unit_locations={"base": [[[2, 3], [4, 5]]]},
        intervention_additional_kwargs={"row_factors": torch.tensor([2.0, 10.0])},
    )
    ((base, moved),) = calls
    expected = torch.tensor([2.0, 10.0])[:, None, None] * intervention.weight
    torch.testing.assert_close(moved - base, expected.expand(2, 2, WIDTH), atol=1e-5, rtol=1e-5)
    output.logits.log_softmax(-1)[..., 5].sum().backward()
    assert intervention.weight.grad is not None
    assert bool(intervention.weight.grad.any())


@KINDS
@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_generation_steers_all_but_the_protected_positions(kind: Any, use_cache: bool) -> None:
    model, new = tiny_model("llama"), 5
    intervention = kind(weight=2 * torch.randn(1, WIDTH))
    steered = pv.IntervenableModel(
        {"component": find_site(model, 1).component, "intervention": intervention}, model
    )
    calls = record_calls(intervention)
    prompt, mask = torch.randint(3, 95, (2, 6)), mask_of("..xxxx", "...xxx")
    options: dict[str, Any] = {"position_mask": mask}
    if kind is AdditiveIntervention:
        options["row_factors"] = torch.tensor([3.0, -3.0])
    _, ids = steered.generate(
        {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)},
        unit_locations=None,
        intervene_on_prompt=True,
        intervention_additional_kwargs=options,
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        use_cache=use_cache,
        pad_token_id=2,
    )
    assert ids.shape == (2, 6 + new)
    assert len(calls) == new
    for base, output in calls:
        where = torch.ones(base.shape[:2], dtype=torch.bool)
        if base.shape[1] > 1:
            where[:, :6] = mask
        assert torch.equal(output[~where], base[~where])
        moved = coordinates(output - base, intervention.weight)[..., 0]
        if kind is AdditiveIntervention:
            length = intervention.weight.square().sum().item()
            expected = (3 * length * torch.tensor([[1.0], [-1.0]])).expand_as(moved)
        else:
            expected = -coordinates(base, intervention.weight)[..., 0].clamp_min(0.0)
        torch.testing.assert_close(moved[where], expected[where], atol=1e-3, rtol=1e-3)
