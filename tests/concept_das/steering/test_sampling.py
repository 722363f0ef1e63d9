import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from concept_das.steering.sampling import RowSampler, exponential_noise, row_seed

NOTHING = torch.zeros(1, 1, dtype=torch.long)


def sampled(logits: Tensor, steps: int = 1, **options: Any) -> Tensor:
    """Tokens of every row at every step, `[rows, steps]`."""
    seeds = [row_seed(7, i) for i in range(len(logits))]
    sampler = RowSampler(options.pop("temperature", 1.0), seeds, **options)
    return torch.stack([sampler(NOTHING, logits.clone()).argmax(-1) for _ in range(steps)], 1)


def test_seeds_of_rows_are_the_same_everywhere() -> None:
    # Written down: another value would change every sampled text of every user.
    assert row_seed(0, 0) == -6108749488097515556
    assert row_seed(42, "Sing") == -4440135274348221821
    seeds = {row_seed(seed, key) for seed in range(50) for key in (*range(50), "0", "1")}
    assert len(seeds) == 50 * 52


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_softmax_distribution(temperature: float, dtype: torch.dtype) -> None:
    count, steps = 400, 25
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, 1.5, -torch.inf], dtype=dtype)
    tokens = sampled(logits.expand(count, -1), steps, temperature=temperature)
    shares = (logits.double() / temperature).softmax(-1)
    assert not (tokens == 5).any()
    assert_shares(tokens, shares[:5])
    # Steps of one row are independent, and so are neighbours at one step: their pairs too.
    joint = torch.outer(shares[:5], shares[:5]).flatten()
    assert_shares(5 * tokens[:, ::2][:, :12] + tokens[:, 1::2], joint)
    assert_shares(5 * tokens[::2] + tokens[1::2], joint)


def assert_shares(tokens: Tensor, shares: Tensor) -> None:
    observed = tokens.flatten().bincount(minlength=len(shares)).double()
    expected = shares / shares.sum() * observed.sum()
    assert stats.chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3


def test_a_vocabulary_of_several_runs() -> None:
    """Tokens are drawn in two steps there; the last run is shorter."""
    logits = torch.full((700,), -torch.inf)
    places = torch.tensor([0, 1, 255, 256, 400, 511, 512, 699])
    logits[places] = torch.tensor([1.0, -1.0, 0.0, 2.0, 0.5, 0.5, -0.5, 1.5])
    tokens = sampled(logits.expand(400, -1), 25)
    assert set(tokens.flatten().tolist()) == set(places.tolist())
    assert_shares(torch.searchsorted(places, tokens), logits[places].double().softmax(-1))


def test_noise_is_exponential_and_independent() -> None:
    noise = exponential_noise(torch.tensor([row_seed(0, i) for i in range(64)]), 2000)
    assert stats.kstest(noise.flatten().numpy(), "expon").pvalue > 1e-3
    cells = (-torch.expm1(-noise) * 8).long().clamp_(max=7)  # uniform
    for pairs in (cells[:, :-1] * 8 + cells[:, 1:], cells[:-1] * 8 + cells[1:]):
        assert stats.chisquare(pairs.flatten().bincount(minlength=64).numpy()).pvalue > 1e-3
    assert len(noise.unique()) > 0.99 * noise.numel()


def test_streams_that_differ_in_one_bit_have_nothing_in_common() -> None:
    streams = torch.tensor([0, *(1 << bit for bit in range(63)), -(2**63)])
    noise = exponential_noise(streams, 500)
    assert noise.isfinite().all()
    assert (noise > 0).all()
    correlations = np.corrcoef(noise.numpy()) - np.eye(len(noise))
    assert abs(correlations).max() < 6 / math.sqrt(500)


def test_the_noise_is_splitmix64() -> None:
    streams = [0, 5, -1, -(2**63)]
    expected = [[by_hand(stream, number) for number in range(1, 4)] for stream in streams]
    found = exponential_noise(torch.tensor(streams), 3)
    assert found.numpy() == pytest.approx(np.array(expected), rel=1e-5)
    # Written down: another number would change every sampled text.
    assert by_hand(0, 1) == pytest.approx(2.148241)


def by_hand(stream: int, number: int) -> float:
    state = (stream + number * 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return -math.log1p(-(((state ^ (state >> 31)) >> 32) + 0.5) / 2**32)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_row_depends_on_nothing_but_its_seed(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 5))
    logits = torch.tensor(
        np.random.default_rng(data.draw(st.integers(0, 99))).normal(0, 3, (rows, 600)),
        dtype=torch.float32,
    )
    options: dict[str, Any] = {
        "temperature": data.draw(st.sampled_from([0.3, 1.0, 1.7])),
        "top_k": data.draw(st.sampled_from([None, 1, 7, 600, 9999])),
        "top_p": data.draw(st.sampled_from([None, 0.1, 0.9, 1.0])),
    }
    seeds = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=rows, max_size=rows))
    steps = data.draw(st.integers(1, 4))

    def tokens(chosen: list[int]) -> list[list[int]]:
        sampler = RowSampler(seeds=[seeds[i] for i in chosen], **options)
        drawn = [sampler(NOTHING, logits[chosen]).argmax(-1).tolist() for _ in range(steps)]
        return list(map(list, zip(*drawn, strict=True)))

    together = tokens(list(range(rows)))
    assert tokens(list(range(rows))[::-1])[::-1] == together
    assert [tokens([i])[0] for i in range(rows)] == together


@pytest.mark.parametrize(
    ("options", "warpers"),
    [
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"top_k": 1}, [TopKLogitsWarper(1)]),
        ({"top_k": 9999}, []),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
        ({"top_p": 1.0}, []),
        ({"top_k": 20, "top_p": 0.6}, [TopKLogitsWarper(20), TopPLogitsWarper(0.6)]),
    ],
)
@pytest.mark.parametrize("vocabulary", [40, 2600])
def test_the_likeliest_tokens_are_transformers_own(
    options: dict[str, Any], warpers: list[Callable[..., Tensor]], vocabulary: int
) -> None:
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    temperature = 1.5
    kept = logits.unsqueeze(0) / temperature
    for warper in warpers:
        kept = warper(NOTHING, kept)
    shares = kept[0].double().softmax(-1)
    tokens = sampled(logits.expand(500, -1), 10, temperature=temperature, **options)
    assert shares[tokens].min() > 0
    common = shares * tokens.numel() >= 5
    pooled = torch.cat([shares[common], shares[~common].sum().reshape(1)])
    places = torch.full((vocabulary,), int(common.sum()))
    places[common] = torch.arange(int(common.sum()))
    if pooled[-1] * tokens.numel() < 1:
        pooled, tokens = pooled[:-1], tokens[common[tokens]]
    if len(pooled) > 1:
        assert_shares(places[tokens], pooled)


def test_tokens_that_are_ruled_out_are_never_among_the_likeliest() -> None:
    logits = torch.full((10, 300), -torch.inf)
    logits[:, 7], logits[:, 299] = 1.0, -80.0
    for options in ({"top_k": 5}, {"top_p": 1.0}, {"top_k": 300, "top_p": 0.5}):
        assert set(sampled(logits, 20, **options).flatten().tolist()) == {7}


def test_tokens_as_likely_as_the_last_stay() -> None:
    logits = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0])
    tokens = sampled(logits.expand(300, -1), 3, top_k=2)
    assert sorted(set(tokens.flatten().tolist())) == [0, 1, 2, 3]


def test_a_flat_vocabulary_needs_more_than_the_first_thousand() -> None:
    tokens = sampled(torch.zeros(300, 5000) - torch.arange(5000) * 1e-6, 10, top_p=0.5)
    assert 2400 < tokens.max() < 2520


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 0.01])
def test_little_temperature_is_nearly_greedy(temperature: float) -> None:
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(1)) * 50
    tokens = sampled(logits, temperature=temperature)
    assert torch.equal(tokens[:, 0], logits.argmax(-1))


def test_a_shared_seed_couples_distributions_that_are_close() -> None:
    """Strengths of one prompt share their noise, so that they differ by nothing but themselves."""
    logits = 2 * torch.randn(1000, 700, generator=torch.Generator().manual_seed(2))
    other = logits + 0.01 * torch.randn(1000, 700, generator=torch.Generator().manual_seed(3))
    same = (sampled(logits) == sampled(other)).double().mean()
    assert 0.95 < same < 1
