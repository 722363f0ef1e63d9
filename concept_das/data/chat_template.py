"""A chat template with all that is filled into it but the user's text."""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from concept_das.data.conversations import Conversation
from concept_das.errors import InputError

DATE = "2024-07-26"
"""The date in templates that write one, so that a vector's prompts are the same tomorrow; Llama's
templates fall back on this day."""

PLAIN = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ message['role'].capitalize() }}:\n{{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For a base model, which has no template: the roles, each on a line of its own. Its name is
`plain`."""

_NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


@dataclass(frozen=True)
class ChatTemplate:
    """A template, rendered around a user's text.

    Attributes:
        source: the Jinja text.
        system: system prompt; the template's default if None.
        date: the day that the template takes for today, `2024-07-26`; None if it writes no date.
        options: passed to the template.
        given: the template, date and options that the caller chose, as JSON holds them.
        in_parts: true if it takes a message as a list of parts and not as text.
        before, after: what is rendered before and after the user's text.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    source: str
    system: str | None
    date: str | None
    options: Mapping[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    in_parts: bool = False
    before: str = ""
    after: str = ""

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        source: str | None,
        system: str | None,
        date: str | None,
        options: Mapping[str, Any],
    ) -> "ChatTemplate":
        """Find the template, and how it shows a user's text.

        Raises:
            InputError: if there is no template, it rejects a conversation or does not show the
                user's text once and with something behind it, or the date is none.
        """
        chosen = _chosen(tokenizer, source)
        writes_date = _NOW.search(chosen) is not None
        day = (date or DATE) if writes_date else None
        try:
            datetime.date.fromisoformat(date or DATE)
        except ValueError as error:
            raise InputError(f"date {date!r} is no date; write it as {DATE}") from error
        told = {"template": source and chosen, "date": date, "options": options}
        given = json.loads(json.dumps({k: v for k, v in told.items() if v}, default=str))
        template = cls(tokenizer, chosen, system, day, options, given)
        marker = "USERTEXT"
        while marker in (system or ""):
            marker += "X"
        template, (before, after) = template._cut(marker)
        if not after:
            raise InputError(
                f"the chat template of {template.name} has no generation prompt; pass "
                "chat_template with an add_generation_prompt part"
            )
        return replace(template, before=before, after=after)

    def _cut(self, marker: str) -> tuple["ChatTemplate", list[str]]:
        """This template or the same in parts, with the text on either side of the marker."""
        refusal = InputError(f"the chat template of {self.name} does not show the user's text once")
        for number, template in enumerate((self, replace(self, in_parts=True))):
            try:
                pieces = template.render(marker).split(marker)
            except InputError as error:
                if number == 0:
                    refusal = error
                continue
            if len(pieces) == 2:
                return template, pieces
        raise refusal

    @property
    def name(self) -> str:
        """The tokenizer's name, for messages."""
        return name_of(self.tokenizer)

    @property
    def sha256(self) -> str:
        """Hash of the Jinja text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def arguments(self, text: str, answer: str | None = None) -> dict[str, Any]:
        """Arguments of `apply_chat_template` for a user's text or conversation, and an answer."""
        own = text.turns if isinstance(text, Conversation) else [("user", text)]
        first = [] if own[0][0] == "system" else [("system", self.system)]
        turns = [*first, *own, ("assistant", answer)]
        return {
            "conversation": [
                {
                    "role": role,
                    "content": [{"type": "text", "text": said}] if self.in_parts else said,
                }
                for role, said in turns
                if said is not None
            ],
            # Not by an argument of the template: transformers 5 hands on no functions.
            "chat_template": _NOW.sub(self._today, self.source),
            **self.options,
        }

    def render(self, text: str, *, opened: bool = True, answer: str | None = None) -> str:
        """The conversation as text.

        Args:
            opened: with the generation prompt.

        Raises:
            InputError: if the template rejects it.
        """
        try:
            rendered = self.tokenizer.apply_chat_template(
                tokenize=False, add_generation_prompt=opened, **self.arguments(text, answer)
            )
        except Exception as error:  # templates raise what they like
            hint = "; it may not accept a system prompt" if self.system is not None else ""
            raise InputError(
                f"the chat template of {self.name} rejects a conversation{hint} ({error})"
            ) from error
        assert isinstance(rendered, str)
        return rendered

    def shown(self, rendered: str) -> str:
        """The user's text as the template shows it, which may be trimmed or cut.

        Raises:
            InputError: if the template's own text depends on the user's.
        """
        long_enough = len(rendered) >= len(self.before) + len(self.after)
        if not (long_enough and rendered.startswith(self.before) and rendered.endswith(self.after)):
            raise InputError(
                f"the chat template of {self.name} writes something else around the instruction "
                f"{rendered[len(self.before) :][:40]!r} than around others; change its beginning "
                "or end, or pass another chat_template"
            )
        return rendered[len(self.before) : len(rendered) - len(self.after)]

    def space_before_answer(self) -> str:
        """White space that the template puts between the generation prompt and an answer."""
        opened = self.render("Hi")
        try:
            closed = self.render("Hi", opened=False, answer="ANSWER")
        except InputError:
            return ""
        between = closed[len(opened) :].partition("ANSWER")[0] if closed.startswith(opened) else ""
        return between if between.isspace() else ""

    def _today(self, match: re.Match[str]) -> str:
        assert self.date is not None
        return repr(datetime.date.fromisoformat(self.date).strftime(match[2]))


def name_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer's name, for messages."""
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def _chosen(tokenizer: PreTrainedTokenizerBase, source: str | None) -> str:
    """The template to use: a given one, one of the tokenizer's by its name, or its default."""
    own = tokenizer.chat_template
    name = name_of(tokenizer)
    if isinstance(own, dict):
        if source is None and "default" not in own:
            raise InputError(
                f"the tokenizer of {name} has several chat templates ({', '.join(own)}) and none "
                "is the default; pass the name of one as chat_template"
            )
        return str(own.get(source or "default", source))
    if source is None and own is None:
        raise InputError(
            f"the tokenizer of {name} has no chat template; use an instruction-tuned model or "
            "pass chat_template, plain for a base model"
        )
    return PLAIN if source == "plain" else source or str(own)
