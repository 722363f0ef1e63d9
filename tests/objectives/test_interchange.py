import math
from typing import Any

import pytest
import torch
from torch import Tensor

from objectives import (
    elicit_loss,
    interchange_loss,
    jensen_shannon,
    kl_student_teacher,
    kl_teacher_student,
    suppress_loss,
)
from tests.objectives import reference

# Two responses, of two tokens and of one, over two words; as probabilities.
STUDENT = [[[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]]]
TEACHER = [[[0.25, 0.75], [0.9, 0.1]], [[0.8, 0.2], [1.0, 0.0]]]
MASK = torch.tensor([[True, True], [True, False]])


def logits_of(probabilities: list[list[list[float]]]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def js(row: int, token: int) -> float:
    return reference.jensen_shannon(STUDENT[row][token], TEACHER[row][token])


def test_the_worked_example() -> None:
    # The first token's value by hand, with the mixture (3/8, 5/8); the second token's is zero.
    by_hand = (
        0.5 * math.log(0.5 / 0.375)
        + 0.5 * math.log(0.5 / 0.625)
        + 0.25 * math.log(0.25 / 0.375)
        + 0.75 * math.log(0.75 / 0.625)
    ) / 2
    assert js(0, 0) == pytest.approx(by_hand)
    assert js(0, 1) == 0.0


def test_sequence_reduction_by_hand() -> None:
    expected = ((js(0, 0) + js(0, 1)) / 2 + js(1, 0)) / 2
    value = elicit_loss(logits_of(STUDENT), logits_of(TEACHER), MASK)
    assert value.item() == pytest.approx(expected)
    assert torch.equal(value, elicit_loss(logits_of(STUDENT), logits_of(TEACHER), MASK, "sequence"))


def test_token_reduction_by_hand() -> None:
    expected = (js(0, 0) + js(0, 1) + js(1, 0)) / 3
    value = elicit_loss(logits_of(STUDENT), logits_of(TEACHER), MASK, "token")
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("divergence", "per_token"),
    [
        (jensen_shannon, reference.jensen_shannon),
        (kl_teacher_student, lambda p, q: reference.kl(q, p)),
        (kl_student_teacher, reference.kl),
    ],
    ids=["jensen_shannon", "kl_teacher_student", "kl_student_teacher"],
)
def test_the_divergence_can_be_swapped(divergence: Any, per_token: Any) -> None:
    value = interchange_loss(logits_of(STUDENT), logits_of(TEACHER), MASK, "token", divergence)
    expected = [per_token(STUDENT[i][k], TEACHER[i][k]) for i, k in ((0, 0), (0, 1), (1, 0))]
    assert value.item() == pytest.approx(sum(expected) / 3)


def test_both_directions_are_one_function_of_other_rows() -> None:
    assert suppress_loss is elicit_loss
    student, teacher = logits_of(STUDENT), logits_of(TEACHER)
    expected = interchange_loss(student, teacher, MASK)
    assert torch.equal(elicit_loss(student, teacher, MASK), expected)


def test_no_gradient_goes_through_the_teacher() -> None:
    student = torch.randn(2, 2, 6, requires_grad=True)
    teacher = torch.randn(2, 2, 6, requires_grad=True)
    interchange_loss(student, teacher, MASK).backward()
    assert teacher.grad is None
    assert student.grad is not None
    moved = student.grad.abs().sum(dim=-1) > 0
    assert torch.equal(moved, MASK)  # and none through the padding


def test_nothing_to_learn_where_student_and_teacher_agree() -> None:
    logits = torch.randn(2, 2, 6, requires_grad=True)
    value = elicit_loss(logits, logits.detach(), MASK)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-7)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-7, rtol=0)
