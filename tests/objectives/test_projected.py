"""The chunked closed forms against autograd through the plain losses."""

import pytest
import torch

from objectives import das_loss, jensen_shannon, kl_student_teacher, kl_teacher_student, projected
from objectives.projected import ProjectedLoss, Projection, projected_teacher

TOKENS, WIDTH, VOCAB = 7, 5, 23


def _plain_cross_entropy(student, _teacher, labels):
    mask = torch.ones(TOKENS, 1, dtype=torch.bool)
    return das_loss(student[:, None], labels[:, None], mask) * TOKENS


CASES = {
    "jsd": (projected.jensen_shannon_with_gradient, lambda s, t, _: jensen_shannon(s, t)),
    "kl_ts": (projected.kl_teacher_student_with_gradient, lambda s, t, _: kl_teacher_student(s, t)),
    "kl_st": (projected.kl_student_teacher_with_gradient, lambda s, t, _: kl_student_teacher(s, t)),
}

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "softcapped": {"softcap": 2.0},
    "everything": {"bias": True, "scale": 3.0, "softcap": 1.5},
}


def _projection(bias=False, **options):
    weight = torch.randn(VOCAB, WIDTH, dtype=torch.float64)
    return Projection(weight, torch.randn(VOCAB).double() if bias else None, **options)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_values_and_gradients_equal_autograd(case, head, chunk):
    closed, plain = CASES[case]
    projection = _projection(**HEADS[head])
    student = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(TOKENS, WIDTH, dtype=torch.float64)
    labels = torch.randint(VOCAB, (TOKENS,))
    weights = torch.rand(TOKENS, dtype=torch.float64)

    expected = plain(projection.logits(student), projection.logits(teacher), labels)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), student)
    found = ProjectedLoss(projection, closed, chunk)(
        student, projected_teacher(teacher, projection), labels
    )
    (gradient,) = torch.autograd.grad((found * weights).sum(), student)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_cross_entropy_needs_no_teacher(head):
    projection = _projection(**HEADS[head])
    student = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(VOCAB, (TOKENS,))
    expected = _plain_cross_entropy(projection.logits(student), None, labels)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    closed = projected.cross_entropy_with_gradient
    found = ProjectedLoss(projection, closed, 2)(student, None, labels)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(found.sum(), expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_an_outer_function_of_the_tokens_composes():
    """Preference losses are not sums over tokens; autograd must reach through them."""
    projection = _projection()
    student = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(TOKENS, WIDTH, dtype=torch.float64)
    labels = torch.zeros(TOKENS, dtype=torch.long)

    def outer(values):
        return torch.nn.functional.logsigmoid(values[:3].sum() - values[3:].mean())

    closed, plain = CASES["jsd"]
    expected = outer(plain(projection.logits(student), projection.logits(teacher), labels))
    (expected_gradient,) = torch.autograd.grad(expected, student)
    found = outer(
        ProjectedLoss(projection, closed, 4)(
            student, projected_teacher(teacher, projection), labels
        )
    )
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, expected_gradient)


def test_underflow_of_both_probabilities_stays_finite():
    projection = Projection(torch.eye(4) * 1e4)
    student = torch.tensor([[1.0, 0.0, -1.0, -1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, -1.0, -1.0]])
    for closed, _ in CASES.values():
        value = ProjectedLoss(projection, closed, 64)(
            student, projected_teacher(teacher, projection), torch.zeros(1, dtype=torch.long)
        )
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


def test_memory_does_not_hold_all_logits():
    """No tensor of tokens x vocabulary is alive for the backward pass."""
    projection = _projection()
    student = torch.randn(64, WIDTH, dtype=torch.float64, requires_grad=True)
    saved = []

    def keep(tensor):
        saved.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = ProjectedLoss(projection, projected.jensen_shannon_with_gradient, 8)
        target = projected_teacher(torch.randn(64, WIDTH, dtype=torch.float64), projection)
        loss(student, target, torch.zeros(64, dtype=torch.long))
    assert saved == [(64, WIDTH)]
