"""Conversations in a cell: `messages` as chat models take them, and ShareGPT's `conversations`.

A prompt is all that stands before the answer: one text of the user's, or a conversation that ends
with one. The answer is the model's last turn.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from concept_das.errors import InputError

CONVERSATION_COLUMNS = ("messages", "conversations")

_ROLES = {"human": "user", "gpt": "assistant"}


def turns_of(cell: Any) -> list[tuple[str, str]] | None:
    """Role and text of each turn; None if the cell is no conversation of texts.

    Args:
        cell: a list of `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`.
    """
    if isinstance(cell, str | Mapping) or not isinstance(cell, Iterable):
        return None
    turns = []
    for message in cell:
        if not isinstance(message, Mapping):
            return None
        role = message.get("role") or message.get("from")
        text = message.get("content") or message.get("value")
        if not isinstance(text, str) and isinstance(text, Iterable):  # parts, as for images
            parts: list[Any] = [p.get("text") if isinstance(p, Mapping) else None for p in text]
            text = "".join(parts) if all(isinstance(part, str) for part in parts) else None
        if not isinstance(role, str) or not isinstance(text, str):
            return None
        turns.append((_ROLES.get(role, role), text))
    return turns or None


class Conversation(str):
    """A prompt of several turns, or with a system prompt of its own; as a text, its turns as JSON.

    It stands wherever a user's text may: in a quadruple, a file, a list of prompts.
    """

    __slots__ = ()

    @classmethod
    def of(cls, turns: Sequence[tuple[str, str]]) -> "Conversation":
        """Of role and text of each turn."""
        return cls(json.dumps(_messages(turns), ensure_ascii=False))

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Role and text of each turn."""
        return [(turn["role"], turn["content"]) for turn in json.loads(self)]

    @property
    def system(self) -> str | None:
        """The text of its first turn if that is a system prompt."""
        role, text = self.turns[0]
        return text if role == "system" else None


def prompt_in(cell: Any) -> Any:
    """The prompt in a cell: a text, or a `Conversation`; what is neither comes back as it is.

    Args:
        cell: a text, a list of messages, or the JSON of one. A single turn of the user's is a text.

    Raises:
        InputError: if a conversation does not end with the user's turn.
    """
    turns = turns_of(_from_json(cell))
    if turns is None:
        return cell
    if turns[-1][0] == "assistant":
        raise InputError(
            "the conversation ends with the model's answer; leave it out, and give it as the output"
        )
    return turns[0][1] if len(turns) == 1 else Conversation.of(turns)


def prompt_and_answer(cell: Any) -> tuple[str, str] | None:
    """The prompt of a conversation, and the model's last turn; None if it does not end with one."""
    turns = turns_of(_from_json(cell))
    if turns is None or len(turns) < 2 or turns[-1][0] != "assistant":
        return None
    return prompt_in(_messages(turns[:-1])), turns[-1][1]


def asked(instruction: str) -> str:
    """The user's last text."""
    if isinstance(instruction, Conversation):
        return instruction.turns[-1][1]
    return instruction


def asking(instruction: str, text: str) -> str:
    """The same prompt with another text of the user's at its end."""
    if isinstance(instruction, Conversation):
        *before, (role, _) = instruction.turns
        return Conversation.of([*before, (role, text)])
    return text


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def _from_json(cell: Any) -> Any:
    """The list in a text that is the JSON of one, as files without lists hold it."""
    if isinstance(cell, str) and cell.lstrip()[:1] == "[" and '"' in cell:
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell
