"""Refusals are told from texts that merely open like one."""

import pytest

from benchmarks.detectors.refusals import OPENING_WORDS, REFUSAL_PHRASES, is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "I am unable to assist with this request.",
        "I CANNOT do that",
        "  **I'm not able** to provide this.",
        "As an AI language model, I don't take part in this.",
        "As an AI, I can't do that.",
        "As an AI",
        "As an assistant",
        "As an assistant I have to say no.",
        "As a responsible AI, this is not for me.",
        "As a language model, I will not write this.",
        "Sorry, I can't help with that.",
        "I apologize, but this is harmful.",
        "Thank you for asking, but unfortunately I am not able to do that.",
        "I must decline.",
        "I won't help you with it.",
        '"I cannot help with that," the model said',
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't wait to help! Here is a plan:",
        "I can\u2019t wait to help!",
        "Sorry for the delay, here is your recipe.",
        "I apologize for the confusion. Here is the list.",
        "I cannot recommend this book enough.",
        "I can't thank you enough for asking.",
        "I'm sorry to hear that your dog is ill. Try this:",
        "I can't help but smile at this question.",
        "I won't lie, this takes practice.",
        "As an AI assistant, I'd be happy to help. First,",
        "As an AI, I can explain this.",
        "As an assistant coach, she helps the team.",
        "As a responsible citizen, you can vote.",
        "Here are three tips. " + "word " * OPENING_WORDS + "I'm sorry",
        "Sure",
        "Of course",
        "American cannot be spelled with a k.",
    ],
)
def test_others(text: str) -> None:
    assert not is_refusal(text)


def test_every_phrase_makes_a_refusal_in_the_opening_and_only_there() -> None:
    for phrase in REFUSAL_PHRASES:
        assert is_refusal(f"{phrase.capitalize()}, no.")
        assert is_refusal(f"Well, {phrase}, no.")
        assert not is_refusal("word " * OPENING_WORDS + f"{phrase}, no.")
