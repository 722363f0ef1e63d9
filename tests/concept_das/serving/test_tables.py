"""The edit of flat tokens, each by its own request's steering."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_das import SteeringVector
from concept_das.serving.batch import Batches, Tracked, steered_tokens
from concept_das.serving.catalogue import Catalogue
from concept_das.serving.request import SteeringRequest
from concept_das.serving.tables import Tables
from concept_das.steering.positions import parse_positions
from interventions import set_coordinates
from tests.concept_das.helpers import random_vector, vector_at
from tests.tiny import LAYERS, WIDTH, tiny_model

NAMES = ("one", "three", "added", "several")


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    model = tiny_model()
    for name, vector in {
        "one": random_vector(model, prefix_length=2),
        "three": random_vector(model, rank=3, seed=1),
        "added": random_vector(model, rank=2, operation="add", seed=2, positions="p1+s2"),
        "several": vector_at(model, (0, 1)),
    }.items():
        vector.save(tmp_path / name)
    return Catalogue.read({name: tmp_path / name for name in NAMES})


def tables_of(catalogue: Catalogue, requests: int = 8) -> Tables:
    return Tables(catalogue, range(LAYERS), requests, 64, torch.device("cpu"))


def edited_alone(
    vector: SteeringVector, request: SteeringRequest, layer: int, hidden: Tensor
) -> Tensor:
    """One hidden state, by the formulas."""
    index = vector.layers.index(layer)
    site, target = vector.sites[index], request.steering(vector).target(index)
    if vector.operation == "clamp":
        return set_coordinates(hidden[None, None], site.weight, target)[0, 0]
    return (hidden.float() + target @ site.weight).to(hidden.dtype)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_token_is_edited_by_its_own_steering(
    catalogue: Catalogue, layer: int, dtype: torch.dtype
) -> None:
    tables = tables_of(catalogue)
    requests = [
        SteeringRequest("one"),
        None,
        SteeringRequest("three", "suppress", 1.5),
        SteeringRequest("added", multiplier=-2.0),
        SteeringRequest("several", rule="interpolate", multiplier=0.5),
        SteeringRequest("one", factor=(3.0,)),
        SteeringRequest("three"),
    ]
    tables.set_tokens(torch.tensor(tables.rows_of(requests)))
    hidden, residual = torch.randn(2, len(requests), WIDTH).to(dtype)
    edited = tables.blocks[layer].edited(hidden, residual) + residual
    for i, request in enumerate(requests):
        whole = hidden[i] + residual[i]
        if request is None:
            assert torch.equal(edited[i], whole)
            continue
        vector = catalogue.vectors[request.vector].vector
        if layer in vector.layers:
            whole = edited_alone(vector, request, layer, whole)
        tolerance = 1e-5 if dtype == torch.float32 else 0.1  # the sum is rounded at another place
        torch.testing.assert_close(edited[i], whole, atol=tolerance, rtol=tolerance)
    alone = tables.blocks[layer].edited(hidden, None)
    torch.testing.assert_close(alone, tables.blocks[layer].edited(hidden, 0 * residual))


def test_rows_are_kept_while_there_is_room_and_never_taken_from_the_batch(
    catalogue: Catalogue,
) -> None:
    tables = tables_of(catalogue, requests=2)
    strengths = [SteeringRequest("one", multiplier=float(i)) for i in range(4)]
    first = tables.rows_of([strengths[0], None, strengths[1], strengths[0]])
    assert first == [1, 0, 2, 1]
    assert tables.rows_of([strengths[1]]) == [2]
    assert tables.rows_of([strengths[1], strengths[2]]) == [2, 1]
    assert sorted(tables.rows_of([strengths[3], strengths[0]])) == [1, 2]
    # A row that changes hands forgets what it did elsewhere.
    tables.rows_of([SteeringRequest("several")])
    tables.rows_of([strengths[1], strengths[2]])
    assert not tables.blocks[0].amount.any()
    assert not tables.blocks[0].clamped.any()


def test_a_process_edits_its_own_blocks(catalogue: Catalogue) -> None:
    tables = Tables(catalogue, [0], 2, 8, torch.device("cpu"))
    assert list(tables.blocks) == [0]
    tables.rows_of([SteeringRequest("several"), SteeringRequest("one")])


def test_tokens_beyond_a_batch_are_left_alone(catalogue: Catalogue) -> None:
    tables = tables_of(catalogue)
    for rows in ([1, 1, 1], [0, 1], [0, 0]):
        tables.set_tokens(torch.tensor(rows))
        assert tables.row_of_token.tolist() == rows + [0] * (64 - len(rows))
        assert tables.active == any(rows)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "p2+s2", "p3", "s1"])
def test_the_tokens_that_are_steered_are_those_of_steer(positions: str) -> None:
    """Cut into batches at random, against a plain reading of the words, token by token."""
    generator = torch.Generator().manual_seed(0)
    prefix, prompt, total = 3, 9, 14
    for others in ("all", "p1+s3", "generated"):
        spans = frozenset({parse_positions(positions), parse_positions(others)})
        one = Tracked(SteeringRequest("one"), prompt, prefix, spans)
        expected = [
            5 * all(is_steered(word, i, prefix, prompt) for word in (positions, others))
            for i in range(total)
        ]
        found: list[int] = []
        while len(found) < total:
            count = int(torch.randint(1, 5, (1,), generator=generator))
            count = min(count, total - len(found))
            rows = steered_tokens([None, one, None], [0, 5, 0], [7, len(found), 0], [2, count, 1])
            assert rows[:2].tolist() == [0, 0]
            assert rows[-1] == 0
            found += rows[2:-1].tolist()
        assert found == expected


def is_steered(positions: str, index: int, prefix: int, prompt: int) -> bool:
    if index < prefix:
        return False
    if positions == "all":
        return True
    if positions == "prompt":
        return index < prompt
    if positions == "generated":
        return index >= prompt
    first, last = {"p2+s2": (2, 2), "p3": (3, 0), "s1": (0, 1), "p1+s3": (1, 3)}[positions]
    return index < prompt and (index < prefix + first or index >= prompt - last)


def new_request(request_id: str, extra_args: Any, prompt: Sequence[int]) -> SimpleNamespace:
    return SimpleNamespace(
        req_id=request_id,
        sampling_params=SimpleNamespace(extra_args=extra_args),
        prompt_token_ids=list(prompt),
        prompt_embeds=None,
    )


def test_requests_are_followed_from_their_first_token_to_their_last(catalogue: Catalogue) -> None:
    tables = tables_of(catalogue)
    batches = Batches(tables)
    steered = SteeringRequest("one", positions="generated").extra_args()
    batches.follow([], [new_request("a", steered, range(4)), new_request("b", None, range(4))])

    def rows(ids: list[str], starts: list[int], counts: list[int]) -> list[int]:
        batches.prepare(ids, starts, counts)
        return tables.row_of_token[: sum(counts)].tolist()

    assert rows(["b", "a"], [0, 0], [4, 3]) == [0] * 7
    assert rows(["a", "b"], [3, 4], [1, 1]) == [0, 0]
    assert rows(["b", "a"], [5, 4], [1, 1]) == [0, 1]
    # Preempted: what it had written is computed again, and is no prompt for that.
    assert rows(["a"], [0], [6]) == [0, 0, 0, 0, 1, 1]
    batches.follow(["a"], [])
    assert rows(["a"], [6], [1]) == [0]
    # Another request of the same id.
    batches.follow(["b"], [new_request("b", SteeringRequest("one").extra_args(), range(2))])
    assert rows(["b"], [0], [4]) == [0, 0, 2, 2]
