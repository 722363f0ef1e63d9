import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from objectives import jensen_shannon, kl_student_teacher, kl_teacher_student
from objectives.divergences import log_probabilities
from tests.objectives import reference

INF = math.inf
LN_2 = math.log(2.0)

ALL = pytest.mark.parametrize(
    "divergence",
    [jensen_shannon, kl_teacher_student, kl_student_teacher],
    ids=lambda f: f.__name__,
)

Divergence = Callable[[Tensor, Tensor], Tensor]


def pairs_of_logits(low: float, high: float) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    def of_size(size: int) -> st.SearchStrategy[tuple[list[float], list[float]]]:
        row = st.lists(st.floats(low, high), min_size=size, max_size=size)
        return st.tuples(row, row)

    return st.integers(2, 8).flatmap(of_size)


@ALL
def test_gives_one_value_per_position(divergence: Divergence) -> None:
    student, teacher = torch.randn(2, 4, 3, 9).double()
    together = divergence(student, teacher)
    assert together.shape == (4, 3)
    for i, j in itertools.product(range(4), range(3)):
        torch.testing.assert_close(together[i, j], divergence(student[i, j], teacher[i, j]))


@given(pairs_of_logits(-60, 60))
def test_jensen_shannon_equals_its_definition(pair: tuple[list[float], list[float]]) -> None:
    expected = reference.jensen_shannon(*map(reference.softmax, pair))
    student, teacher = torch.tensor(pair, dtype=torch.float64)
    assert jensen_shannon(student, teacher).item() == pytest.approx(expected, abs=1e-12)
    in_float32 = jensen_shannon(student.float(), teacher.float()).item()
    assert in_float32 == pytest.approx(expected, abs=2e-6)


@given(pairs_of_logits(-60, 60))
def test_the_kls_equal_their_definition(pair: tuple[list[float], list[float]]) -> None:
    student, teacher = torch.tensor(pair, dtype=torch.float64)
    p, q = map(reference.softmax, pair)
    expected = kl_teacher_student(student, teacher).item()
    assert expected == pytest.approx(reference.kl(q, p), abs=1e-10)
    assert kl_student_teacher(student, teacher).item() == pytest.approx(
        reference.kl(p, q), abs=1e-10
    )


@given(pairs_of_logits(-1e5, 1e5))
@example(([0.0, 1e5], [1e5, 0.0]))
@example(([0.0, 0.0], [0.0, 1e-8]))
def test_jensen_shannon_is_symmetric_and_between_0_and_ln_2(
    pair: tuple[list[float], list[float]],
) -> None:
    student, teacher = torch.tensor(pair, dtype=torch.float32)
    value = jensen_shannon(student, teacher).item()
    assert 0.0 <= value <= torch.tensor(LN_2).item()
    assert value == jensen_shannon(teacher, student).item()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([0.0, -INF, 1.0, -INF], [-INF, 0.0, -INF, 2.0]),
        ([0.0, -1e4, 1.0, -1e4], [-1e4, 0.0, -1e4, 2.0]),
        ([3e38, -3e38, 0.0, 0.0], [-3e38, 3e38, 0.0, 0.0]),
    ],
    ids=["minus infinity", "underflow", "overflow of the difference"],
)
def test_jensen_shannon_of_disjoint_distributions_is_ln_2(
    student: list[float], teacher: list[float]
) -> None:
    value = jensen_shannon(torch.tensor(student), torch.tensor(teacher))
    assert value.item() == pytest.approx(LN_2, abs=1e-6)


# Tokens 2 and 3 have no probability in either distribution.
UNDERFLOWS = pytest.mark.parametrize(
    "low", [-1e4, -1e30, -INF], ids=["1e4 apart", "1e30 apart", "minus infinity"]
)


@ALL
@UNDERFLOWS
def test_a_token_that_underflows_in_both_distributions_adds_nothing(
    divergence: Divergence, low: float
) -> None:
    student = torch.tensor([0.3, -0.2, low, low], requires_grad=True)
    teacher = torch.tensor([-0.5, 0.9, low, low], requires_grad=True)
    value = divergence(student, teacher)
    without = divergence(student[:2], teacher[:2])
    assert value.item() == pytest.approx(without.item(), abs=1e-7)
    gradients = torch.autograd.grad(value, (student, teacher))
    expected = torch.autograd.grad(without, (student, teacher))
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("low", [-1e4, -INF])
def test_jensen_shannon_has_finite_gradients_on_disjoint_distributions(low: float) -> None:
    student = torch.tensor([0.5, 0.0, low, low], requires_grad=True)
    teacher = torch.tensor([low, low, 0.0, 0.5], requires_grad=True)
    jensen_shannon(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is not None
    assert torch.isfinite(student.grad).all()
    assert torch.isfinite(teacher.grad).all()


def test_jensen_shannon_does_not_round_below_zero_and_keeps_its_gradient_there() -> None:
    # Distributions so near to each other that rounding takes some sums below zero.
    student = torch.randn(2000, 2, requires_grad=True)
    teacher = (student + 1e-3 * torch.randn(2000, 2)).detach()
    value = jensen_shannon(student, teacher)
    assert value.min().item() == 0.0
    value.sum().backward()
    in_double = student.detach().double().requires_grad_()
    jensen_shannon(in_double, teacher.double()).sum().backward()
    assert student.grad is not None
    assert in_double.grad is not None
    at_zero = (value == 0.0) & (in_double.grad.norm(dim=1) > 1e-6)
    assert at_zero.any()
    torch.testing.assert_close(
        student.grad[at_zero].double(), in_double.grad[at_zero], atol=1e-7, rtol=0.05
    )


def test_jensen_shannon_does_not_round_above_ln_2() -> None:
    student, teacher = 3 * torch.randn(2, 500, 40)
    student[:, :20], teacher[:, 20:] = -INF, -INF
    assert jensen_shannon(student, teacher).max().item() == torch.tensor(LN_2).item()


@ALL
def test_gradient_matches_finite_differences(divergence: Divergence) -> None:
    student, teacher = (torch.randn(2, 5, dtype=torch.float64, requires_grad=True) for _ in "ab")
    assert torch.autograd.gradcheck(divergence, (student, teacher))


def test_jensen_shannon_gradient_matches_finite_differences_with_an_impossible_token() -> None:
    def with_impossible_token(student: Tensor, teacher: Tensor) -> Tensor:
        nothing = torch.full((2, 1), -INF, dtype=torch.float64)
        return jensen_shannon(torch.cat([student, nothing], 1), torch.cat([teacher, nothing], 1))

    student, teacher = (torch.randn(2, 5, dtype=torch.float64, requires_grad=True) for _ in "ab")
    assert torch.autograd.gradcheck(with_impossible_token, (student, teacher))


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(
    divergence: Divergence, dtype: torch.dtype
) -> None:
    student, teacher = (3 * torch.randn(2, 4, 100)).to(dtype)
    value = divergence(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, divergence(student.float(), teacher.float()))


@ALL
def test_double_precision_stays_double(divergence: Divergence) -> None:
    student, teacher = torch.randn(2, 4, dtype=torch.float64)
    assert divergence(student, teacher).dtype == torch.float64


def test_a_low_precision_student_gets_its_gradient_in_its_own_precision() -> None:
    student = torch.randn(3, 10, dtype=torch.bfloat16, requires_grad=True)
    jensen_shannon(student, torch.randn(3, 10, dtype=torch.bfloat16)).sum().backward()
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
    assert bool(student.grad.abs().sum() > 0)


def test_the_kls_are_what_their_names_say() -> None:
    # Probabilities (1/2, 1/2) and (1/4, 3/4), with constants added to the logits.
    student = torch.tensor([1.0, 1.0])
    teacher = torch.tensor([2.0, 2.0 + math.log(3.0)])
    teacher_student = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    student_teacher = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_teacher_student(student, teacher).item() == pytest.approx(teacher_student, abs=1e-6)
    assert kl_student_teacher(student, teacher).item() == pytest.approx(student_teacher, abs=1e-6)
    assert teacher_student != pytest.approx(student_teacher, abs=1e-3)


def test_a_kl_without_support_is_huge_but_a_number() -> None:
    student = torch.tensor([0.0, -INF], requires_grad=True)
    teacher = torch.tensor([0.0, 0.0])
    value = kl_teacher_student(student, teacher)
    assert 1e20 < value.item() < INF
    (gradient,) = torch.autograd.grad(value, student)
    assert torch.isfinite(gradient).all()
    assert kl_student_teacher(student, teacher).item() == pytest.approx(LN_2)


def test_log_probabilities_have_a_finite_floor() -> None:
    log_p = log_probabilities(torch.tensor([[0.0, 0.0, -INF]], dtype=torch.bfloat16))
    assert log_p.dtype == torch.float32
    assert torch.isfinite(log_p).all()
    torch.testing.assert_close(log_p.exp(), torch.tensor([[0.5, 0.5, 0.0]]))
