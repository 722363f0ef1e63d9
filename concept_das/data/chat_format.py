r"""From a conversation to token ids whose parts are known.

The chat template is rendered with the user's text and tokenised once, as transformers does it:

    <bos><start_of_turn>user\n | user text | <end_of_turn>\n | <start_of_turn>model\n | response
    -------- prefix ---------                                   - generation prompt --

The parts are cut by the offsets of a few short texts when the format is made. Every prompt must
then begin with the same prefix and end with the same generation prompt, or it is refused. Nothing
is searched for in a user's text, and a prompt that holds the template's own words is plain text
like any other.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from concept_das.data.chat_template import ChatTemplate
from concept_das.data.conversations import Conversation, prompt_in
from concept_das.data.plain_text import PlainText, ids_of
from concept_das.errors import InputError

log = logging.getLogger(__name__)

# What a vector's own chat format must have in common with another.
_DESCRIBED = ("prefix", "turn_end", "generation_prompt")

_CHOSEN = ("options", "date", "system_in_rows")

# Beginnings that tokenizers treat differently: one may join a template's last space with a letter,
# another with a bracket.
_PROBES = ("Hi", "a", "7", "(")


@dataclass(frozen=True)
class ChatFormat:
    """A model's chat template, cut into token ids around the user's text.

    Attributes:
        prefix: ids before the user's text: begin-of-text, system prompt, user header. The template
            prefix that is never intervened on. A token that joins the template's last space with
            the text belongs to the text.
        turn_end: ids between the user's text and the generation prompt.
        generation_prompt: ids that open the model's turn; all ids after the user's text if the
            template does the same with and without one.
        source_token: index of the token of the generation prompt at which the source latent is
            read; negative counts from its end.
        template: the template, its options and the system prompt.
        plain: encodes texts that spell special tokens, and answers.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    prefix: tuple[int, ...]
    turn_end: tuple[int, ...]
    generation_prompt: tuple[int, ...]
    source_token: int
    template: ChatTemplate = field(repr=False)
    plain: PlainText = field(repr=False)

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        source_token: int = -1,
        chat_template: str | None = None,
        date: str | None = None,
        system_in_rows: bool = False,
        **template_options: Any,
    ) -> "ChatFormat":
        """Cut the tokenizer's chat template.

        Args:
            system: system prompt; the template's default if None.
            source_token: index within the generation prompt, -1 its last token (the paper reads the
                source there, and found which token by grid search).
            chat_template: a Jinja template to use instead of the tokenizer's own, or the name of
                one of several that it has; `plain`, for a base model without one.
            date: the day, as 2024-07-26 (the default), for a template that writes today's date: a
                vector must find the same prompts tomorrow.
            system_in_rows: conversations may have system prompts of their own. Only what stands
                before any system prompt is then the template prefix, for all prompts.
            template_options: passed to the template (`enable_thinking=False`, for instance).

        Raises:
            InputError: if there is no template, it shows nothing after the user's text, it rejects
                the system prompt, or the source token is not within the generation prompt.
        """
        template = ChatTemplate.of(tokenizer, chat_template, system, date, template_options)
        cuts = [_cut(template, text) for text in _PROBES]
        prefix = _shared(before for before, _ in cuts)
        if system_in_rows:
            template = replace(template, given={**template.given, "system_in_rows": True})
            own = [Conversation.of([("system", text), ("user", "Hi")]) for text in _PROBES]
            prefix = _shared([prefix, *(tuple(ids_of(tokenizer, template.render(t))) for t in own)])
        after = _shared(after[::-1] for _, after in cuts)[::-1]
        ids, closed = (
            tuple(ids_of(tokenizer, template.render(_PROBES[0], opened=opened)))
            for opened in (True, False)
        )
        turn_end = ids[len(ids) - len(after) : len(_shared([ids, closed]))]
        if not after:
            raise InputError(
                f"the tokenizer of {template.name} joins the text with all that the chat template "
                "writes after it; pass chat_template with a line break there"
            )
        if turn_end == after:
            turn_end = ()
        generation_prompt = after[len(turn_end) :]
        if not -len(generation_prompt) <= source_token < len(generation_prompt):
            raise InputError(
                f"source_token {source_token} is outside the generation prompt of {template.name}, "
                f"which has {len(generation_prompt)} tokens"
            )
        chat = cls(
            tokenizer=tokenizer,
            prefix=prefix,
            turn_end=turn_end,
            generation_prompt=generation_prompt,
            source_token=source_token,
            template=template,
            plain=PlainText.of(template),
        )
        encoded = tokenizer.apply_chat_template(
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            **template.arguments(_PROBES[0]),
        )
        if chat.prompt(_PROBES[0]).ids != tuple(encoded["input_ids"]):
            raise InputError(
                f"the tokenizer of {template.name} makes other tokens of its own chat template "
                "than of the same text; load the fast tokenizer"
            )
        return chat

    @property
    def system(self) -> str | None:
        """The system prompt, if any."""
        return self.template.system

    @property
    def description(self) -> dict[str, Any]:
        """The part of a vector's description about the chat format, as JSON holds it.

        The system prompt and the source token are beside it there.
        """
        return {
            **self.template.given,
            "template_sha256": self.template.sha256,
            "date": self.template.date,
            **{name: list(getattr(self, name)) for name in _DESCRIBED},
        }

    def check(self, described: Mapping[str, Any] | None, system: str | None, owner: str) -> None:
        """Compare with the chat format that something was trained with.

        Args:
            described: the description of it; None, of an earlier release, is not compared.
            system: the system prompt of it.
            owner: the name of what was trained, for messages.

        Raises:
            InputError: if the template prefixes differ in length, so that other tokens than in
                training would be steered. Other tokens are a warning.
        """
        own = self.description
        if described is None or all(described[name] == own[name] for name in _DESCRIBED):
            return
        reasons = {name: described.get(name) != own.get(name) for name in _CHOSEN}
        reasons["template"] = described["template_sha256"] != own["template_sha256"]
        reasons["system"] = system != self.system
        found = ", ".join(sorted(name for name, differs in reasons.items() if differs)) or "tokens"
        trained, here = len(described["prefix"]), len(self.prefix)
        if trained != here:
            raise InputError(
                f"{owner} was trained behind a template prefix of {trained} tokens and this chat "
                f"format has one of {here} (other {found}); make the chat format that it was "
                "trained with"
            )
        log.warning("%s was trained with another chat format (other %s)", owner, found)

    def prompt(self, text: str | Sequence[Mapping[str, Any]]) -> "Prompt":
        """Token ids of all that stands before the model's answer.

        Args:
            text: the user's; or a conversation that ends with a text of the user's, as messages
                with `role` and `content`. All its turns are behind the template prefix, which is
                what stands before its first.

        Raises:
            InputError: if a text is empty, or its beginning or end runs together with the
                template's own text, or a conversation ends otherwise or has a system prompt of its
                own where the chat format has one for all.
        """
        if not isinstance(text, str) or isinstance(text, Conversation):
            text = prompt_in(text)
        if not isinstance(text, str):
            raise InputError(f"{str(text)[:60]!r} is no conversation; give messages of texts")
        if isinstance(text, Conversation):
            shown, ids = text.turns[-1][1], self._conversation_ids(text)
        else:
            rendered = self.template.render(text)
            shown = self.template.shown(rendered)
            if not shown.strip():
                raise InputError("an instruction is empty; remove the row")
            ids = tuple(ids_of(self.tokenizer, rendered))
            if self.plain.spells_special_tokens(shown):
                ids = self.plain.prompt_ids(shown)
        start = len(ids) - len(self.generation_prompt)
        if ids[: len(self.prefix)] != self.prefix or ids[start:] != self.generation_prompt:
            raise InputError(
                f"the tokenizer of {self.template.name} joins an end of the instruction "
                f"{shown[:40]!r} with the chat template's own text; remove the white space or "
                "punctuation there"
            )
        return Prompt(
            ids=ids,
            prefix_length=len(self.prefix),
            source_position=start + self.source_token % len(self.generation_prompt),
        )

    def _conversation_ids(self, conversation: Conversation) -> tuple[int, ...]:
        own = conversation.system
        if own is not None and own != self.system and "system_in_rows" not in self.template.given:
            raise InputError(
                f"a conversation has a system prompt of its own, {own[:40]!r}; make the chat "
                "format with system_in_rows (--system-in-rows), which protects only what stands "
                "before a system prompt"
            )
        for _, text in conversation.turns:
            if not text.strip():
                raise InputError("a turn of a conversation is empty; remove the row")
            if self.plain.spells_special_tokens(text):
                raise InputError(
                    f"the turn {text[:40]!r} of a conversation spells a special token; drop the row"
                )
        return tuple(ids_of(self.tokenizer, self.template.render(conversation)))

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of plain text as the model answers it, after the generation prompt.

        No begin-of-text, and no special tokens even if the text spells them.
        """
        return self.plain.answer_ids(text)


def chat_of(chat: ChatFormat | PreTrainedTokenizerBase) -> ChatFormat:
    """The chat format itself; if a tokenizer is given, that of its template."""
    return ChatFormat.of(chat) if isinstance(chat, PreTrainedTokenizerBase) else chat


def _cut(template: ChatTemplate, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of a conversation that lie before the user's text, and after it.

    A tokenizer without offsets gives all ids for both.
    """
    rendered = template.render(text)
    tokenizer = template.tokenizer
    if not tokenizer.is_fast:
        ids = tuple(ids_of(tokenizer, rendered))
        return ids, ids
    encoded = tokenizer(
        rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    pairs = list(zip(encoded.input_ids, encoded.offset_mapping, strict=True))
    start, stop = len(template.before), len(template.before) + len(text)
    return (
        tuple(token for token, (_, end) in pairs if end <= start),
        tuple(token for token, (begin, _) in pairs if begin >= stop),
    )


def _shared(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The ids that all rows begin with."""
    columns = zip(*rows, strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len({*column}) == 1, columns))


@dataclass(frozen=True)
class Prompt:
    """Ids of a prompt that ends where the model's answer begins.

    Attributes:
        ids: prefix, user text, turn end, generation prompt.
        prefix_length: number of template tokens before the user's text.
        source_position: index of the token the source latent is read at.
    """

    ids: tuple[int, ...]
    prefix_length: int
    source_position: int

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The prompt as a batch of one, for `model.generate(**prompt.tensors())`."""
        input_ids = torch.tensor([self.ids], device=device)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def with_response(self, response: Sequence[int]) -> "Turn":
        """The prompt followed by response ids."""
        return Turn(self, tuple(response))


@dataclass(frozen=True)
class Turn:
    """A prompt and a response, as one row of a batch."""

    prompt: Prompt
    response: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids."""
        return self.prompt.ids + self.response
