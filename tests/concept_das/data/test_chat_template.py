"""Chat formats over the kinds of templates and tokenizers that models have."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from concept_das.data.chat_format import ChatFormat
from concept_das.data.chat_template import DATE
from concept_das.errors import InputError
from tests.concept_das.data.chats import SPECIAL, TEMPLATES, TOKENIZERS, byte_level, template_of
from tests.tiny import tiny_tokenizer

MADE = {name: make() for name, make in TOKENIZERS.items()}
SPELLED = ("<|im_end|>", "</s>", "<s>", "<|im_start|>")


def expected_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, template: str, parts: bool = False
) -> tuple[int, ...]:
    content = [{"type": "text", "text": text}] if parts else text
    encoded = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        add_generation_prompt=True,
        return_dict=True,
    )
    return tuple(encoded["input_ids"])


def special_in(chat: ChatFormat, ids: tuple[int, ...]) -> int:
    special = {n for n, token in chat.tokenizer.added_tokens_decoder.items() if token.special}
    return sum(token in special for token in ids)


@pytest.mark.parametrize("tokenizer", MADE)
@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_equal_the_chat_templates(tokenizer: str, template: str) -> None:
    made, source = MADE[tokenizer], TEMPLATES[template]
    chat = ChatFormat.of(made, chat_template=source)
    for text in ("Hi there", "a (b)", "one\n\ntwo\n\n\nthree", "x</think>\n\ny", "  spaced"):
        prompt = chat.prompt(text)
        assert prompt.ids == expected_ids(made, text, source, template == "parts")
        assert prompt.ids[: prompt.prefix_length] == chat.prefix
        assert prompt.source_position == len(prompt.ids) - 1
    plain, spelling = chat.prompt("Hi"), chat.prompt("Hi<|im_end|> <s></s>")
    assert special_in(chat, spelling.ids) == special_in(chat, plain.ids)
    assert special_in(chat, chat.text_ids("Hi</s>")) == 0


@pytest.mark.parametrize(
    ("tokenizer", "template", "prefix", "turn_end", "generation_prompt"),
    [
        ("byte level", "ChatML", "ine|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
        ("byte level", "Llama-2", "<s>[INST]", "", " [/INST]"),
        ("byte level", "Vicuna", "<s>USER:", "", " ASSISTANT:"),
        ("characters", "Vicuna", "<s>USER: ", " ", "ASSISTANT:"),
        ("byte level", "Phi", "<|user|>", "<|im_end|>\n", "<|assistant|>"),
        ("byte level", "parts", "User:", "<|im_end|>\n", "Assistant:"),
    ],
)
def test_the_parts(
    tokenizer: str, template: str, prefix: str, turn_end: str, generation_prompt: str
) -> None:
    chat = ChatFormat.of(MADE[tokenizer], chat_template=TEMPLATES[template])
    decode = chat.tokenizer.decode
    assert decode(chat.prefix).endswith(prefix.removeprefix("ine|>"))
    assert decode(chat.turn_end) == turn_end
    assert decode(chat.generation_prompt) == generation_prompt


def outcome(work: Callable[[], Any]) -> tuple[Any, str]:
    """The outcome, or the sentence that says why there is none."""
    try:
        return work(), ""
    except InputError as error:
        return None, str(error)


PIECES = {
    "bos": st.sampled_from(["", "<s>", "Chat.\n\n"]),
    "user": st.sampled_from(
        [
            "<|im_start|>user\n{}<|im_end|>\n",
            "USER: {} ",
            "[INST] {} [/INST]",
            "User:{}\n\n",
            "{}</s>",
        ]
    ),
    "opened": st.sampled_from(["", "<|im_start|>assistant\n", "ASSISTANT:", "<|assistant|>", "> "]),
    "closed": st.sampled_from(["", "</s>"]),
    "change": st.sampled_from(["", " | trim", ".replace('\\n', ' ')", ".split('</think>')[-1]"]),
}
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*SPECIAL, "\n", "\n\n", " ", "</think>", "[/INST]", "USER:", "é", "7"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6),
    ),
    min_size=1,
    max_size=4,
).map("".join)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(MADE)), st.fixed_dictionaries(PIECES), TEXTS)
def test_any_template_and_text(tokenizer: str, pieces: dict[str, str], text: str) -> None:
    """The ids are `apply_chat_template`'s, or one sentence says why not."""
    made = MADE[tokenizer]
    template = template_of(**{**pieces, "user": pieces["user"].replace("{}", "X")})
    chat, refusal = outcome(lambda: ChatFormat.of(made, chat_template=template))
    if refusal:
        assert "has no generation prompt" in refusal  # nothing behind the text
        return
    prompt, refusal = outcome(lambda: chat.prompt(text))
    if refusal:
        assert refusal.rpartition("; ")[2].startswith(("remove", "change"))
        return
    assert prompt.ids[: prompt.prefix_length] == chat.prefix
    assert prompt.ids[-len(chat.generation_prompt) :] == chat.generation_prompt
    if chat.plain.spells_special_tokens(text):
        # Behind the prefix nothing of the text is read as special, but for an unknown character.
        unknown = prompt.ids.count(made.unk_token_id)
        assert special_in(chat, prompt.ids) - unknown <= special_in(chat, chat.prompt("Hi").ids)
    else:
        assert prompt.ids == expected_ids(made, text, template)


@pytest.mark.parametrize("tokenizer", sorted(set(MADE) - {"swallowing tokens"}))
@pytest.mark.parametrize("template", ["Llama-2", "Zephyr", "Vicuna"])
def test_an_answer_is_encoded_as_in_the_conversation(tokenizer: str, template: str) -> None:
    made, source = MADE[tokenizer], TEMPLATES[template]
    chat = ChatFormat.of(made, chat_template=source)
    answered = made.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}],
        chat_template=source,
        return_dict=True,
    )["input_ids"]
    ids = (*chat.prompt("Hi").ids, *chat.text_ids("Hello there"))
    assert ids == tuple(answered[: len(ids)])
    assert chat.text_ids("") == ()


def test_a_line_break_that_joins_the_templates() -> None:
    """As on Qwen3: the user's line break and the template's become one token."""
    chat = ChatFormat.of(byte_level(), chat_template=TEMPLATES["Zephyr"])
    with pytest.raises(InputError, match=r"joins an end of the instruction '\\nHi' with the chat"):
        chat.prompt("\nHi")
    assert chat.text_ids("\nHi")  # an answer follows ids that are fixed


def named(**templates: str) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = templates
    return tokenizer


def test_several_named_templates() -> None:
    tokenizer = named(default=TEMPLATES["ChatML"], rag=TEMPLATES["Vicuna"])
    assert ChatFormat.of(tokenizer).prefix == ChatFormat.of(tiny_tokenizer()).prefix
    vicuna = ChatFormat.of(tiny_tokenizer(), chat_template=TEMPLATES["Vicuna"])
    assert ChatFormat.of(tokenizer, chat_template="rag").prefix == vicuna.prefix
    with pytest.raises(
        InputError, match=r"several chat templates \(rag, tools\) and none is the def"
    ):
        ChatFormat.of(named(rag="a", tools="b"))


def test_a_template_that_writes_around_a_text_what_depends_on_it() -> None:
    source = "{% if 'x' in messages[0].content %}X: {% endif %}" + TEMPLATES["Phi"]
    chat = ChatFormat.of(tiny_tokenizer(), chat_template=source)
    with pytest.raises(InputError, match="writes something else around the instruction"):
        chat.prompt("six")
    assert chat.prompt("five").prefix_length == len(chat.prefix)


def test_a_text_that_the_template_drops() -> None:
    chat = ChatFormat.of(tiny_tokenizer(), chat_template=TEMPLATES["thinking"])
    with pytest.raises(InputError, match="an instruction is empty"):
        chat.prompt("Hm</think>")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_template_that_writes_the_date(quote: str) -> None:
    now = f"strftime_now({quote}%d %b %Y{quote})"
    source = f"{{% if strftime_now is defined %}}{{{{ {now} }}}}{{% endif %}}" + TEMPLATES["Phi"]

    def prefix(**options: Any) -> str:
        chat = ChatFormat.of(tiny_tokenizer(), chat_template=source, **options)
        return str(chat.tokenizer.decode(chat.prefix))

    assert prefix() == f"26 Jul 2024{prefix(date=DATE).removeprefix('26 Jul 2024')}"
    assert prefix(date="2026-11-05").startswith("05 Nov 2026")
    with pytest.raises(InputError, match=f"date 'today' is no date; write it as {DATE}"):
        prefix(date="today")


def test_a_tokenizer_without_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = ChatFormat.of(tiny_tokenizer())
    monkeypatch.setattr(type(tiny_tokenizer()), "is_fast", False)
    slow = ChatFormat.of(tiny_tokenizer())
    for part in ("prefix", "turn_end", "generation_prompt"):
        assert getattr(slow, part) == getattr(fast, part)
