"""The contract of every intervention inside pyvene, on every architecture.

The tables of both are in `cases`; each test runs on all pairs.
"""

from pathlib import Path
from typing import Any

import pytest
import pyvene as pv
import torch
from torch import Tensor

from concept_das.models.blocks import hidden_states_at
from tests.interventions.cases import (
    CASES,
    EACH_CASE,
    LAYER,
    ON_ALL,
    ON_ALL_IN_PYVENES_TABLE,
    RANK,
    Bench,
    Case,
    record_calls,
)
from tests.tiny import WIDTH, tiny_model


@EACH_CASE
@ON_ALL
def test_changes_the_given_positions_and_nothing_else(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture)
    positions, read = [[2, 3, 7], [4, 5, 8]], [[5], [3]]
    logits = bench.run(positions, read)
    expected = bench.logits_with(bench.expected_hidden(positions, read))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    before = bench.untouched()
    assert torch.equal(logits[0, :2], before[0, :2])
    assert torch.equal(logits[1, :4], before[1, :4])
    assert not torch.allclose(logits[:, 4:], before[:, 4:], atol=1e-2)


@ON_ALL
def test_one_source_position_each_or_one_for_all(architecture: str) -> None:
    bench = Bench.of(CASES["interchange"], architecture)
    positions, read = [[2, 3, 7], [4, 5, 8]], [[0, 5, 1], [3, 2, 2]]
    expected = bench.logits_with(bench.expected_hidden(positions, read))
    torch.testing.assert_close(bench.run(positions, read), expected, atol=1e-4, rtol=1e-4)


@ON_ALL
def test_precomputed_source_states_equal_a_source_run(architecture: str) -> None:
    bench = Bench.of(CASES["interchange"], architecture)
    positions, read = [[2, 3, 7], [4, 5, 8]], [[5], [3]]
    states = hidden_states_at(bench.model, bench.site, **bench.source)
    states = torch.stack([states[0, 5], states[1, 3]]).unsqueeze(1)
    (key,) = bench.intervenable.interventions
    precomputed = bench.run(positions, read, sources=None, source_representations={key: states})
    torch.testing.assert_close(precomputed, bench.run(positions, read), atol=1e-5, rtol=1e-5)


@EACH_CASE
@ON_ALL
def test_all_positions_without_unit_locations(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture)
    everywhere = [list(range(9))] * 2
    # pyvene then reads the source at the same positions as the base.
    bench.source = {"input_ids": torch.randint(3, 100, (2, 9))}
    logits = bench.run(None, None, unit_locations=None)
    expected = bench.logits_with(bench.expected_hidden(everywhere, everywhere))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@EACH_CASE
@ON_ALL
def test_each_batch_row_its_own_concept(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture, rows=3)
    positions, read = [[2, 3]] * 3, [[4]] * 3
    logits = bench.run(positions, read, subspaces=[[[1], [], [0]]])
    weight, rows = bench.intervention.weight.detach().clone(), [[1], [], [0]]
    hidden = hidden_states_at(bench.model, bench.site, **bench.base)
    both = bench.expected_hidden(positions, read)
    for i, chosen in enumerate(rows):
        # The rows are orthonormal, so each one's part of the change can be told apart.
        only = weight[chosen].T @ weight[chosen]
        both[i] = hidden[i] + (both[i] - hidden[i]) @ only
    torch.testing.assert_close(logits, bench.logits_with(both), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits[1], bench.untouched()[1])


@EACH_CASE
@ON_ALL
def test_leaves_no_trace_on_the_model(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture)
    before = bench.untouched()
    steered = bench.run([[2, 3]] * 2, [[4]] * 2)
    assert not torch.allclose(steered, before, atol=1e-2)
    assert torch.equal(bench.untouched(), before)


@EACH_CASE
@ON_ALL
def test_gradients_go_to_the_directions_and_not_to_the_model(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture)
    bench.intervention.weight.requires_grad_(True)
    # At many positions: nulling out acts only where a direction is present.
    positions = [list(range(1, 9))] * 2
    torch.log_softmax(bench.run(positions, [[4]] * 2), -1)[..., 5].sum().backward()
    assert bool((bench.intervention.weight.grad.abs().sum(dim=1) > 0).all())
    assert all(parameter.grad is None for parameter in bench.model.parameters())


@ON_ALL
def test_the_gradient_through_the_model_matches_finite_differences(architecture: str) -> None:
    bench = Bench.of(CASES["interchange"], architecture)
    bench.model.double()
    bench.intervention.double()
    weight = bench.intervention.weight

    def loss() -> Tensor:
        logits = bench.run([[2, 3]] * 2, [[4]] * 2)
        return torch.log_softmax(logits.double(), -1)[..., 5].mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    # Most of them normalise in float32 whatever their weights: a smaller step drowns in rounding.
    step, value = 1e-3, weight.detach().clone()
    for tilt in torch.randn(2, *weight.shape, dtype=torch.float64):
        ends = []
        for sign in (1, -1):
            weight.data = value + sign * step * tilt
            ends.append(loss().item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float((gradient * tilt).sum()) == pytest.approx(slope, rel=1e-2, abs=1e-4)


@EACH_CASE
@ON_ALL
def test_float32_directions_on_a_bfloat16_model(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture)
    bench.model.bfloat16()
    positions, read = [[2, 3, 7], [4, 5, 8]], [[5], [3]]
    calls = record_calls(bench.intervention)
    bench.intervention.weight.requires_grad_(True)
    logits = bench.run(positions, read)
    ((_base, output),) = calls
    assert output.dtype == torch.bfloat16
    expected = bench.expected_hidden(positions, read)
    index = torch.tensor(positions).unsqueeze(-1).expand(-1, -1, WIDTH)
    # Computed in float32 and rounded once: at most one unit in the last place between two orders
    # of summation.
    torch.testing.assert_close(output, expected.gather(1, index), atol=1e-4, rtol=2**-7)
    logits.float().log_softmax(-1)[..., 5].sum().backward()
    assert bench.intervention.weight.dtype == torch.float32
    assert bench.intervention.weight.grad.dtype == torch.float32
    assert bool((bench.intervention.weight.grad != 0).all())


@EACH_CASE
@ON_ALL
def test_left_padded_rows_equal_single_rows(case: Case, architecture: str) -> None:
    bench = Bench.of(case, architecture)
    lengths = (9, 5)
    ids = bench.base["input_ids"]
    singles = []
    for i, length in enumerate(lengths):
        bench.base = {"input_ids": ids[i : i + 1, :length]}
        whole_source = bench.source
        bench.source = {"input_ids": whole_source["input_ids"][i : i + 1]}
        singles.append(bench.run([[length - 2, length - 1]], [[4]])[0])
        bench.source = whole_source
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    padded = torch.stack([ids[0], torch.cat([torch.full((4,), 2), ids[1, :5]])])
    bench.base = {
        "input_ids": padded,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
    }
    together = bench.run([[7, 8]] * 2, [[4]] * 2)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(together[i, -length:], singles[i], atol=1e-4, rtol=1e-4)


@EACH_CASE
@ON_ALL_IN_PYVENES_TABLE
def test_block_output_is_the_same_site_as_its_path(case: Case, architecture: str) -> None:
    by_name = Bench.of(
        case, architecture, layer=LAYER, component="block_output", low_rank_dimension=RANK
    )
    positions, read = [[2, 3, 7], [4, 5, 8]], [[5], [3]]
    logits = by_name.run(positions, read)
    expected = by_name.logits_with(by_name.expected_hidden(positions, read))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@ON_ALL_IN_PYVENES_TABLE
def test_pyvenes_own_intervention_needs_the_table_entry_too(architecture: str) -> None:
    pv.IntervenableModel(
        pv.IntervenableConfig(
            representations=[{"layer": LAYER, "component": "block_output"}],
            intervention_types=pv.VanillaIntervention,
        ),
        tiny_model(architecture),
    )


@EACH_CASE
@pytest.mark.parametrize("by_name", [False, True], ids=["path", "block_output"])
@ON_ALL_IN_PYVENES_TABLE
def test_pyvene_saves_and_loads_it(
    case: Case, by_name: bool, architecture: str, tmp_path: Path
) -> None:
    where: dict[str, Any] = (
        {"layer": LAYER, "component": "block_output", "low_rank_dimension": RANK} if by_name else {}
    )
    bench = Bench.of(case, architecture, **where)
    positions, read = [[2, 3, 7], [4, 5, 8]], [[5], [3]]
    logits = bench.run(positions, read)
    bench.intervenable.save(str(tmp_path / "saved"))
    bench.intervenable = pv.IntervenableModel.load(str(tmp_path / "saved"), bench.model)
    (loaded,) = bench.intervenable.interventions.values()
    assert type(loaded) is type(bench.intervention)
    saved = bench.intervention.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(bench.run(positions, read), logits)


@EACH_CASE
def test_pyvene_counts_its_parameters(case: Case) -> None:
    bench = Bench.of(case, "llama")
    trainable = 0 if case is CASES["clamp"] else RANK * WIDTH
    assert sum(p.numel() for p in bench.intervenable.parameters() if p.requires_grad) == trainable


def test_a_plain_pyvene_training_loop() -> None:
    bench = Bench.of(CASES["interchange"], "llama")
    weight = bench.intervention.weight
    begin = weight.detach().clone()
    optimizer = torch.optim.AdamW(bench.intervenable.get_trainable_parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: bench.intervention.retract())
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        logits = bench.run([[2, 3, 7], [4, 5, 8]], [[5], [3]])
        loss = torch.nn.functional.cross_entropy(logits[:, -1], torch.tensor([5, 6]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        torch.testing.assert_close(weight @ weight.T, torch.eye(RANK), atol=1e-6, rtol=0)
    assert losses[-1] < losses[0] - 0.1
    assert not torch.allclose(weight, begin, atol=1e-2)
