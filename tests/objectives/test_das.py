import torch

from objectives import das_loss

LENGTHS = (5, 2, 1)
MASK = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)


def test_token_reduction_is_torch_cross_entropy_over_all_response_tokens() -> None:
    logits, labels = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.masked_fill(~MASK, -100).flatten(), ignore_index=-100
    )
    torch.testing.assert_close(das_loss(logits, labels, MASK, "token"), expected)


def test_sequence_reduction_is_the_mean_of_each_response_cross_entropy() -> None:
    logits, labels = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5))
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(logits[i, :length], labels[i, :length])
            for i, length in enumerate(LENGTHS)
        ]
    ).mean()
    torch.testing.assert_close(das_loss(logits, labels, MASK, "sequence"), expected)
    torch.testing.assert_close(das_loss(logits, labels, MASK), expected)


def test_an_impossible_response_token_costs_much_but_is_a_number() -> None:
    logits = torch.tensor([[[0.0, 0.0, -float("inf")]]], requires_grad=True)
    loss = das_loss(logits, torch.tensor([[2]]), torch.tensor([[True]]))
    loss.backward()
    assert 1e20 < loss.item() < float("inf")
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
