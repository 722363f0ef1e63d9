"""Log-likelihoods of responses, whose prompts may be shared."""

import pytest

from concept_das.evaluation import fluency
from concept_das.evaluation.fluency import log_likelihoods
from concept_das.models.logits import mean_log_likelihood
from tests.concept_das.helpers import EVERY_ARCHITECTURE, plain_logits, tiny_chat
from tests.tiny import tiny_model

PAIRS = [
    ("Name a fruit", "An apple."),
    ("Hi", "Hello, how are you today?"),
    ("Name a fruit", "A pear, or a plum, or a fig"),
    ("Sing", "La"),
    ("Name a fruit", "X"),
    ("Hi", "Ahoy"),
]


@EVERY_ARCHITECTURE
@pytest.mark.parametrize("batch_size", [1, 4])
def test_they_are_those_of_each_pair_alone(architecture: str, batch_size: int) -> None:
    model, chat = tiny_model(architecture), tiny_chat()
    found = log_likelihoods(model, chat, PAIRS, max_tokens=20, batch_size=batch_size)
    for value, (instruction, response) in zip(found, PAIRS, strict=True):
        turn = chat.prompt(instruction).with_response(chat.text_ids(response)[:20])
        expected = mean_log_likelihood(plain_logits(model, turn).detach(), turn.response)
        assert value == pytest.approx(expected, abs=2e-4)


def test_a_prompt_of_several_responses_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chat = tiny_model(), tiny_chat()
    widths: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, options: widths.append(options["input_ids"].numel()),
        with_kwargs=True,
    )
    responses = [("Name a long list of fruits", "An apple.")] * 20
    log_likelihoods(model, chat, responses, max_tokens=9, batch_size=20)
    shared, widths[:] = sum(widths), []
    monkeypatch.setattr(fluency, "_can_share", lambda *_: False)
    log_likelihoods(model, chat, responses, max_tokens=9, batch_size=20)
    assert shared < sum(widths) / 2


def test_a_model_that_cannot_share_is_read_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chat = tiny_model(), tiny_chat()
    expected = log_likelihoods(model, chat, PAIRS, max_tokens=20)

    def refuses(*_: object) -> None:
        raise ValueError("no plain cache")

    monkeypatch.setattr(fluency, "keys_values", refuses)
    found = log_likelihoods(model, chat, PAIRS, max_tokens=20)
    assert found == pytest.approx(expected, abs=2e-4)
