import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from objectives import (
    Response,
    bipo_loss,
    dpo_loss,
    pdas_loss,
    preference_scale,
    reps_steer_loss,
    reps_suppress_loss,
    scaled_simpo_loss,
)

BATCH = 5
LN_2 = math.log(2.0)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def counts(*values: int) -> Tensor:
    return torch.tensor(values)


def minus_log_sigmoid(margin: float) -> float:
    """In plain Python; exact for the moderate margins of these tests."""
    return math.log(1.0 + math.exp(-margin))


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Log-probabilities of two responses, the same by the reference, and both lengths."""
    sums = [-10 * torch.rand(BATCH, dtype=dtype) - 1 for _ in range(4)]
    lengths = [torch.randint(1, 9, (BATCH,)) for _ in range(2)]
    return (*sums, *lengths)


def pair(
    a: Tensor, b: Tensor, ra: Tensor, rb: Tensor, n: Tensor | None = None, m: Tensor | None = None
) -> tuple[Response, Response]:
    """The two responses of the columns that `draw` returns; of one token if no length is given."""
    one = torch.ones(len(a), dtype=torch.long)
    return (
        Response(a, ra, one if n is None else n),
        Response(b, rb, one if m is None else m),
    )


def referred(winner: Tensor, loser: Tensor) -> tuple[Response, Response]:
    """Two responses of which only the reference matters."""
    return pair(winner, loser, winner, loser)


def plain_scaled(a: float, b: float, n: float, m: float, scale: float, gamma: float = 0) -> float:
    return minus_log_sigmoid(scale * (a / n) - b / m - gamma)


def plain_reps_steer(c: float, n: float, rc: float, rn: float, lc: float, ln: float) -> float:
    beta = rn - rc if rn - rc > 1 else 1.0
    return minus_log_sigmoid(beta * c / lc - n / ln)


def plain_reps_suppress(c: float, n: float, rc: float, rn: float, lc: float, ln: float) -> float:
    beta = rc - rn if rc - rn > 1 else 1.0
    return minus_log_sigmoid(beta * n / ln - c / lc)


# The concept's response comes first, as winner, concept or y^c. PDAS has RePS's formula here.
LENGTH_NORMALISED = {
    "pdas": (pdas_loss, plain_reps_steer),
    "reps_steer": (reps_steer_loss, plain_reps_steer),
    "reps_suppress": (reps_suppress_loss, plain_reps_suppress),
}
EACH_LENGTH_NORMALISED = pytest.mark.parametrize(
    ("loss", "plain"), LENGTH_NORMALISED.values(), ids=LENGTH_NORMALISED
)
Loss = Callable[..., Tensor]


@EACH_LENGTH_NORMALISED
def test_length_normalised_losses_equal_their_plain_form(
    loss: Loss, plain: Callable[..., float]
) -> None:
    for _ in range(20):
        inputs = draw()
        expected = [plain(*(column[i].item() for column in inputs)) for i in range(BATCH)]
        torch.testing.assert_close(
            loss(*pair(*inputs)), torch.tensor(expected), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_scaled_simpo_equals_its_plain_form(gamma: float) -> None:
    winner, loser, *_, n, m = columns = draw()
    scale = torch.rand(BATCH) * 3 + 1
    expected = [
        plain_scaled(*(x[i].item() for x in (winner, loser, n, m, scale)), gamma=gamma)
        for i in range(BATCH)
    ]
    found = scaled_simpo_loss(*pair(*columns), scale, gamma)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_and_bipo_equal_their_plain_form(beta: float) -> None:
    a, b, ra, rb, _, _ = columns = draw()
    margins = [(a[i] - ra[i] - (b[i] - rb[i])).item() for i in range(BATCH)]
    signs = tensor(1, -1, -1, 1, -1)
    dpo = torch.tensor([minus_log_sigmoid(beta * margin) for margin in margins])
    bipo = torch.tensor(
        [minus_log_sigmoid(d * beta * m) for d, m in zip(signs.tolist(), margins, strict=True)]
    )
    torch.testing.assert_close(dpo_loss(*pair(*columns), beta), dpo, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bipo_loss(*pair(*columns), signs, beta), bipo, rtol=1e-5, atol=1e-5)


def test_reps_by_hand() -> None:
    # A concept's response of 4 tokens, log p -8; a neutral one of 2 tokens, log p -2. The reference
    # gives them -12 and -3.
    responses = pair(tensor(-8), tensor(-2), tensor(-12), tensor(-3), counts(4), counts(2))
    # beta+ = max(-3 - -12, 1) = 9; Delta+ = 9 * -2 - -1 = -17.
    assert reps_steer_loss(*responses).item() == pytest.approx(17 + math.log1p(math.exp(-17)))
    # beta- = max(-12 - -3, 1) = 1; Delta- = 1 * -1 - -2 = 1.
    assert reps_suppress_loss(*responses).item() == pytest.approx(math.log1p(math.exp(-1)))


def test_pdas_by_hand() -> None:
    # The scale is max(2 * (-3 - -4), 1) = 2; the margin 2 * -2 - -1 - 0.5 = -3.5.
    responses = pair(tensor(-8), tensor(-2), tensor(-4), tensor(-3), counts(4), counts(2))
    loss = pdas_loss(*responses, gamma=0.5, scaler=2.0)
    assert loss.item() == pytest.approx(math.log1p(math.exp(3.5)))


def test_dpo_and_bipo_by_hand() -> None:
    # Gains of 2 and of -1 nats: a margin of 3, times beta = 0.5.
    responses = pair(tensor(-8), tensor(-5), tensor(-10), tensor(-4))
    assert dpo_loss(*responses, beta=0.5).item() == pytest.approx(math.log1p(math.exp(-1.5)))
    assert bipo_loss(*responses, 1, beta=0.5).item() == pytest.approx(math.log1p(math.exp(-1.5)))
    assert bipo_loss(*responses, -1, beta=0.5).item() == pytest.approx(math.log1p(math.exp(1.5)))


def test_the_scale_grows_with_how_unlikely_the_reference_finds_the_winner() -> None:
    pairs = referred(tensor(-30, -20, -10, -9.5, -5), tensor(-10, -10, -10, -9, -30))
    scale = preference_scale(*pairs)
    assert scale.tolist() == [20.0, 10.0, 1.0, 1.0, 1.0]
    assert preference_scale(*referred(tensor(-13), tensor(-10)), scaler=0.5).tolist() == [1.5]


def test_an_unlikely_winner_pulls_harder_on_its_own_likelihood_only() -> None:
    """RePS's sign, and not the reverse: the gradient on the concept grows, on the neutral not."""
    gradients = []
    for reference_concept in (-3.0, -33.0):
        # The margin is the same in both, so that the sigmoid weighs both alike.
        scale = max(-3.0 - reference_concept, 1.0)
        concept = torch.tensor([-1.0 / scale], requires_grad=True)
        neutral = torch.tensor([-1.0], requires_grad=True)
        responses = pair(concept, neutral, tensor(reference_concept), tensor(-3))
        reps_steer_loss(*responses).backward()
        assert concept.grad is not None
        assert neutral.grad is not None
        gradients.append((concept.grad.item(), neutral.grad.item()))
    (likely, neutral_likely), (unlikely, neutral_unlikely) = gradients
    assert likely == pytest.approx(-0.5)
    assert unlikely == pytest.approx(-15.0)
    assert neutral_likely == pytest.approx(0.5)
    assert neutral_unlikely == pytest.approx(0.5)


def call(name: str, a: Tensor, b: Tensor, ra: Tensor, rb: Tensor) -> Tensor:
    """Any of the losses on log-probabilities alone."""
    n, m = counts(*range(1, len(a) + 1)), counts(*range(len(a) + 1, 1, -1))
    winner, loser = pair(a, b, ra, rb, n, m)
    losses: dict[str, Callable[[], Any]] = {
        "scaled_simpo": lambda: scaled_simpo_loss(winner, loser, preference_scale(winner, loser)),
        "pdas": lambda: pdas_loss(winner, loser),
        "reps_steer": lambda: reps_steer_loss(winner, loser),
        "reps_suppress": lambda: reps_suppress_loss(winner, loser),
        "dpo": lambda: dpo_loss(winner, loser, 0.4),
        "bipo": lambda: bipo_loss(winner, loser, tensor(1, -1, 1, -1, 1)[: len(a)], 0.4),
    }
    value: Tensor = losses[name]()
    return value


EACH = pytest.mark.parametrize(
    "name", ["scaled_simpo", "pdas", "reps_steer", "reps_suppress", "dpo", "bipo"]
)


@EACH
def test_gradient_matches_finite_differences(name: str) -> None:
    a, b, ra, rb, *_ = draw(torch.float64)
    a.requires_grad_(True)
    b.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: call(name, a, b, ra, rb), (a, b))


@EACH
def test_no_gradient_flows_to_the_reference(name: str) -> None:
    a, b, ra, rb, *_ = draw()
    for column in (a, b, ra, rb):
        column.requires_grad_(True)
    call(name, a, b, ra, rb).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert ra.grad is None
    assert rb.grad is None


@EACH
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_likelihoods_cost_much_or_nothing_and_stay_finite(name: str, size: float) -> None:
    """Pairs of every order of magnitude on both sides; nothing overflows into NaN or Inf."""
    a, b = tensor(-size, -1), tensor(-1, -size)
    a.requires_grad_(True)
    b.requires_grad_(True)
    loss = call(name, a, b, tensor(-1, -1), tensor(-1, -1))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert loss.max() > size / 10
    assert loss.min() < 1e-6 or name == "bipo"  # its second pair has the other sign
    for gradient in (a.grad, b.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@EACH
def test_low_precision_is_computed_in_float32(name: str) -> None:
    columns = [column.bfloat16() for column in draw()[:4]]
    found = call(name, *columns)
    assert found.dtype == torch.float32
    assert torch.equal(found, call(name, *(column.float() for column in columns)))


@EACH_LENGTH_NORMALISED
def test_an_empty_response_is_an_error(loss: Loss, plain: object) -> None:
    two = tensor(-1, -1)
    with pytest.raises(ValueError, match="row 1 of the batch has an empty response"):
        loss(*pair(two, two, two, two, counts(3, 0), counts(2, 2)))


@pytest.mark.parametrize("sign", [0, 2, tensor(1, 0.5)])
def test_a_sign_that_is_none_is_an_error(sign: Any) -> None:
    two = tensor(-1, -1)
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        bipo_loss(*pair(two, two, two, two), sign)
