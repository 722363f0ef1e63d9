"""Tokenizers and chat templates of the kinds that models have, made in code."""

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>")

_CORPUS = ["user assistant system USER ASSISTANT: INST Hi Hello there Name a fruit (a) 1234 " * 2]


def _trained(
    splits: Any, *, corpus: Sequence[str] = _CORPUS, rstrip: bool = False, **parts: Any
) -> PreTrainedTokenizerFast:
    """A small BPE tokenizer whose merges come from a few words, with the given parts put in."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = splits
    trainer = BpeTrainer(
        vocab_size=500,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=[*pre_tokenizers.ByteLevel.alphabet(), "\n", "\t", "▁"],
    )
    core.train_from_iterator(corpus, trainer)
    core.add_special_tokens(
        [AddedToken(t, special=True, normalized=False, rstrip=rstrip) for t in SPECIAL]
    )
    for part, value in parts.items():
        setattr(core, part, value)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def byte_level(**options: Any) -> PreTrainedTokenizerFast:
    """As GPT-2, Llama-3 and Qwen: bytes; line breaks after a word are joined, as Qwen does."""
    pattern = r"\s*[\r\n]+| ?[A-Za-z]+| ?[^\sA-Za-z]+[\r\n]*|\s+(?!\S)|\s+"
    splits = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    joined = pre_tokenizers.Sequence(splits)
    corpus = [*_CORPUS, "\n\n\n\n"]
    return _trained(joined, corpus=corpus, decoder=decoders.ByteLevel(), **options)


def spaces_first(scheme: str = "first") -> PreTrainedTokenizerFast:
    """As Zephyr and Mistral: a space before the text's first stretch, or before every one."""
    splits = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return _trained(splits, decoder=decoders.Metaspace(prepend_scheme=scheme))


def legacy_llama() -> PreTrainedTokenizerFast:
    """As Llama-2 and Vicuna: a space before every stretch between special tokens, and no words."""
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    back = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _trained(
        pre_tokenizers.Metaspace(),
        pre_tokenizer=pre_tokenizers.Split("\u0000", "isolated"),
        normalizer=normalizers.Sequence(spaces),
        decoder=decoders.Sequence(back),
    )


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "characters": tiny_tokenizer,
    "byte level": byte_level,
    "a space first": spaces_first,
    "a space before each": lambda: spaces_first("always"),
    "legacy Llama": legacy_llama,
    "swallowing tokens": lambda: byte_level(rstrip=True),
}

_TURNS = (
    "{bos}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n' }}"
    "{% elif m.role == 'user' %}{user}{% else %}{answer}{% endif %}{% endfor %}{opened}"
)


def template_of(
    user: str,
    opened: str = "",
    closed: str = "",
    *,
    bos: str = "",
    answer: str = "",
    change: str = "",
) -> str:
    """A template that writes `user` around X, and `answer` around Y, an answer.

    Args:
        opened, closed: behind all turns, with and without a generation prompt asked for.
        change: Jinja filters on the user's text.
    """
    ends = f"{{% if add_generation_prompt %}}{opened}{{% else %}}{closed}{{% endif %}}"
    filled = {
        "{bos}": bos,
        "{user}": user.replace("X", f"{{{{ m.content{change} }}}}"),
        "{answer}": answer.replace("Y", "{{ m.content }}"),
        "{opened}": ends if opened != closed else opened,
    }
    source = _TURNS
    for name, text in filled.items():
        source = source.replace(name, text)
    return source


TEMPLATES: dict[str, str] = {
    "ChatML": CHAT_TEMPLATE,
    "Llama-2": template_of("[INST] X [/INST]", bos="<s>", answer=" Y </s>"),
    "Vicuna": template_of("USER: X ", "ASSISTANT:", bos="<s>", answer="ASSISTANT: Y</s>"),
    "Zephyr": template_of("<|user|>\nX</s>\n", "<|assistant|>\n", answer="<|assistant|>\nY</s>\n"),
    "Llama-3, first": template_of(
        "<|im_start|>user\n\nX<|im_end|>",
        "<|im_start|>assistant\n\n",
        "<|im_start|>assistant\n\n",
        change=" | trim",
    ),
    "Phi": template_of("<|user|>X<|im_end|>\n", "<|assistant|>", "</s>"),
    "parts": template_of(
        "User:{% for part in m.content %}{% if part.type == 'text' %} {{ part.text }}{% endif %}"
        "{% endfor %}<|im_end|>\n",
        "Assistant:",
    ),
    "thinking": template_of(
        "<|user|>X<|im_end|>\n", "<|assistant|>", change=".split('</think>')[-1].lstrip('\\n')"
    ),
    "collapsing": template_of(
        "<|user|>X<|im_end|>\n", "<|assistant|>", change=".replace('\\n\\n', '\\n') | trim"
    ),
}
