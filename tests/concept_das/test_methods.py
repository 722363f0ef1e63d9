import pytest
import torch

from concept_das.errors import InputError
from concept_das.methods import METHODS, find_method
from objectives import (
    REDUCTIONS,
    das_loss,
    elicit_loss,
    interchange_loss,
    kl_student_teacher,
    kl_teacher_student,
    reduce_tokens,
)

STUDENT, TEACHER = torch.randn(2, 2, 3, 11, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[3, 1, 4], [1, 5, 0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_name_stands_for_its_objective(reduction: str) -> None:
    expected = {
        "cdas": elicit_loss(STUDENT, TEACHER, MASK, reduction),
        "kl_teacher_student": interchange_loss(
            STUDENT,
            TEACHER,
            MASK,
            reduction,
            kl_teacher_student,
        ),
        "kl_student_teacher": interchange_loss(
            STUDENT,
            TEACHER,
            MASK,
            reduction,
            kl_student_teacher,
        ),
        "das": das_loss(STUDENT, LABELS, MASK, reduction),
    }
    assert set(METHODS) == set(expected)
    for name, value in expected.items():
        method = find_method(name)
        values = method.token_loss(STUDENT.flatten(0, 1), TEACHER.flatten(0, 1), LABELS.flatten())
        found = reduce_tokens(values.view(MASK.shape), MASK, reduction)
        torch.testing.assert_close(found, value)
    assert len({round(float(value), 6) for value in expected.values()}) == len(expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_per_token_is_the_same_loss(name: str, reduction: str) -> None:
    method = find_method(name)
    student = STUDENT.clone().requires_grad_()
    plain = method.token_loss(student[MASK], TEACHER[MASK], LABELS[MASK])
    loss = reduce_tokens(torch.zeros(MASK.shape).masked_scatter(MASK, plain), MASK, reduction)
    (expected,) = torch.autograd.grad(loss, student)
    log_p, log_q = STUDENT[MASK].log_softmax(-1), TEACHER[MASK].log_softmax(-1)
    values, gradients = method.token_loss_with_gradient(log_p, log_q, LABELS[MASK])
    padded = torch.zeros(MASK.shape).masked_scatter(MASK, values)
    torch.testing.assert_close(reduce_tokens(padded, MASK, reduction), loss.detach())
    weights = MASK / MASK.sum(1, keepdim=True) / len(MASK) if reduction == "sequence" else MASK / 4
    torch.testing.assert_close(gradients * weights[MASK].unsqueeze(-1), expected[MASK])


def test_unknown_methods() -> None:
    with pytest.raises(InputError, match="unknown method 'magic'; choose one of cdas, kl_teacher"):
        find_method("magic")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    assert METHODS[name].name == name
    assert METHODS[name].summary
