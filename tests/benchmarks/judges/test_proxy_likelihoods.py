import random

import numpy as np
import pytest
import torch

from benchmarks.judges import proxy as likelihood
from benchmarks.judges.proxy import (
    NEUTRAL_INSTRUCTION,
    Fluency,
    Relatedness,
    distinct_pairs,
    log_likelihoods,
)
from concept_das.errors import InputError
from concept_das.steering.generation import generate_responses
from tests.concept_das.helpers import plain_logits, tiny_chat
from tests.tiny import tiny_model

CHAT = tiny_chat()
MODEL = tiny_model()
POOL = tuple(
    f"{verb} {thing}"
    for verb in ("Name", "Sing of", "Draw", "What is")
    for thing in ("a ship?", "the moon!", "7 + 5", "an apple.")
)
PAIRS = [
    (POOL[0], "A boat"),
    (POOL[1], "Arr, it be far, mate!"),
    (POOL[2], "x"),
    (POOL[3], "La la"),
]


def plain(instruction: str, response: str, length: int = 99) -> float:
    """One row, unpadded, by the definition."""
    turn = CHAT.prompt(instruction).with_response(CHAT.text_ids(response)[:length])
    with torch.no_grad():
        chances = plain_logits(MODEL, turn).double().log_softmax(-1)
    return float(np.mean([chances[i, token] for i, token in enumerate(turn.response)]))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_likelihoods_are_those_of_single_rows(batch_size: int) -> None:
    values = log_likelihoods(MODEL, CHAT, PAIRS, max_tokens=99, batch_size=batch_size)
    assert values == pytest.approx([plain(*pair) for pair in PAIRS], abs=1e-4)


def test_a_response_is_read_up_to_a_length_and_without_space_around_it() -> None:
    spaced = [(instruction, f"\n {response} ") for instruction, response in PAIRS]
    values = log_likelihoods(MODEL, CHAT, spaced, max_tokens=4)
    assert values == pytest.approx([plain(*pair, 4) for pair in PAIRS], abs=1e-4)


def test_an_empty_response_is_named() -> None:
    with pytest.raises(InputError, match="Name a ship"):
        log_likelihoods(MODEL, CHAT, [(POOL[0], " ")], max_tokens=4)
    assert log_likelihoods(MODEL, CHAT, [], max_tokens=4) == []


def test_relatedness_ranks_the_own_instruction() -> None:
    # By brute force: each response with the instructions under which it is most and least likely.
    responses = ["A boat", "Arr, it be far", "12", "La la la"]
    rule = Relatedness(POOL, others=len(POOL) - 1)
    ranked = [sorted(POOL, key=lambda one: plain(one, response)) for response in responses]
    best = [(order[-1], response) for order, response in zip(ranked, responses, strict=True)]
    worst = [(order[0], response) for order, response in zip(ranked, responses, strict=True)]
    third = [(order[-3], response) for order, response in zip(ranked, responses, strict=True)]
    fifth = [(order[-5], response) for order, response in zip(ranked, responses, strict=True)]
    assert rule.rate(MODEL, CHAT, best) == [2] * 4
    assert rule.rate(MODEL, CHAT, third) == [1] * 4  # 15 // 5 = 3 may do better
    assert rule.rate(MODEL, CHAT, fifth) == [0] * 4
    assert rule.rate(MODEL, CHAT, [*worst, best[0]]) == [0] * 4 + [2]
    assert rule.rate(MODEL, CHAT, []) == []


@pytest.mark.parametrize(
    ("others", "ratings"),
    [(2, [2, 1, 0]), (4, [2, 1, 0]), (9, [2, 1, 0]), (10, [2, 1, 1, 0]), (15, [2, 1, 1, 1, 0])],
)
def test_the_rank_is_mapped_by_the_stated_rule(others: int, ratings: list[int]) -> None:
    rule = Relatedness(tuple(f"{i}" for i in range(20)), others=others)
    assert [rule.rating(better) for better in range(len(ratings))] == ratings
    assert rule.rating(others) == 0


def test_an_unrelated_response_is_rated_two_as_often_as_stated() -> None:
    # Random characters favour no instruction in particular.
    generator = random.Random(0)
    pairs = [
        (generator.choice(POOL), "".join(chr(generator.randrange(33, 127)) for _ in range(6)))
        for _ in range(120)
    ]
    ratings = Relatedness(POOL, others=3).rate(MODEL, CHAT, pairs)
    assert 0.1 < np.mean(np.array(ratings) == 2) < 0.4  # stated: 1 in 4


def test_a_tie_is_not_a_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        likelihood, "log_likelihoods", lambda _m, _c, pairs, **_: [-1.0] * len(pairs)
    )
    assert Relatedness(POOL, others=4).rate(MODEL, CHAT, PAIRS) == [0] * len(PAIRS)


def test_the_others_are_the_same_for_the_same_instruction() -> None:
    rule = Relatedness(POOL, others=5)
    shuffled = Relatedness(tuple(reversed(POOL)) + POOL, others=5)
    for instruction in (*POOL, "Not in the pool"):
        others = rule.compared(instruction)
        assert others == shuffled.compared(instruction)
        assert len(set(others)) == 5
        assert instruction not in others
    assert rule.compared(POOL[0]) != rule.compared(POOL[1])


def test_too_few_instructions_are_named() -> None:
    with pytest.raises(InputError, match="more than 7 different instructions; 2 are"):
        Relatedness(("a", "b", "a"))
    with pytest.raises(InputError, match="at least 2"):
        Relatedness(POOL, others=1)


@pytest.fixture(scope="module")
def unsteered() -> list[str]:
    """The model's own samples, as many characters each as their tokens."""
    prompts = [CHAT.prompt(text) for text in POOL * 2]
    return generate_responses(MODEL, CHAT, prompts, max_new_tokens=40, temperature=1.0)


@pytest.fixture(scope="module")
def fluency(unsteered: list[str]) -> Fluency:
    return Fluency.calibrated(MODEL, CHAT, unsteered, max_tokens=40)


def test_thresholds_are_the_stated_quantiles(unsteered: list[str], fluency: Fluency) -> None:
    texts = [text for text in unsteered if text.strip()]
    losses = [-plain(NEUTRAL_INSTRUCTION, text.strip(), 40) for text in texts]
    shares = [distinct_pairs(CHAT.text_ids(text.strip())[:40]) for text in texts]
    median, usual = np.quantile(losses, [0.5, 0.95])
    assert fluency.usual == pytest.approx(usual, abs=1e-4)
    assert fluency.limit == pytest.approx(2 * usual - median, abs=1e-4)
    assert fluency.varied == pytest.approx(np.quantile(shares, 0.05))


def test_unsteered_responses_are_fluent_and_noise_is_not(
    unsteered: list[str], fluency: Fluency
) -> None:
    texts = [text for text in unsteered if text.strip()]
    assert np.mean(np.array(fluency.rate(MODEL, CHAT, texts)) == 2) >= 0.85
    # What the model finds least likely, one character after another.
    unlikely = []
    with torch.no_grad():
        ids = list(CHAT.prompt(NEUTRAL_INSTRUCTION).ids)
        for _ in range(20):
            order = MODEL(torch.tensor([ids])).logits[0, -1].argsort().tolist()
            ids.append(next(i for i in order if i >= 6 and i not in ids[-8:]))
            unlikely.append(ids[-1])
    assert fluency.rate(MODEL, CHAT, [CHAT.tokenizer.decode(unlikely)]) == [0]


# Losses and texts, with thresholds 2 and 3 for the loss and 0.6 for the variety.
CASES = [
    ("abcdefgh", 1.9, 2),
    ("abcdefgh", 2.5, 1),
    ("abcdefgh", 3.5, 0),
    ("abcdabcd", 0.1, 1),  # 4 of 7 pairs differ
    ("aaaaaaaa", 0.1, 0),
    ("aaaaaaaa", 3.5, 0),
    ("a b c d " * 5, 0.1, 0),
    ("a", 0.1, 2),
]


@pytest.mark.parametrize(("text", "loss", "rating"), CASES)
def test_the_lower_of_perplexity_and_repetition_counts(
    monkeypatch: pytest.MonkeyPatch, text: str, loss: float, rating: int
) -> None:
    monkeypatch.setattr(likelihood, "log_likelihoods", lambda *_, **__: [-loss])
    fluency = Fluency(usual=2.0, limit=3.0, varied=0.6, max_tokens=99)
    assert fluency.rate(MODEL, CHAT, [text]) == [rating]


def test_words_in_a_loop_are_not_fluent_whatever_the_tokens_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(likelihood, "log_likelihoods", lambda *_, **__: [-0.1])
    fluency = Fluency(usual=2.0, limit=3.0, varied=0.0, max_tokens=99)
    assert fluency.rate(MODEL, CHAT, ["a b c d " * 5]) == [0]


def test_distinct_pairs() -> None:
    assert distinct_pairs([1, 2, 3, 1, 2]) == pytest.approx(3 / 4)
    assert distinct_pairs([5] * 9) == pytest.approx(1 / 8)
    assert distinct_pairs([5]) == distinct_pairs([]) == 1


def test_too_few_unsteered_responses_are_named(unsteered: list[str]) -> None:
    with pytest.raises(InputError, match="7 unsteered responses have text"):
        Fluency.calibrated(MODEL, CHAT, ["text"] * 7 + ["", " "])
