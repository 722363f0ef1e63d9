"""Show which tokens are protected, which is the source, and which are steered."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from concept_das.data.chat_format import ChatFormat, Turn

Role = Literal["prefix", "prompt", "source", "response"]


@dataclass(frozen=True)
class MarkedToken:
    """A token with the part it plays.

    Attributes:
        intervened: whether the interchange and the clamp change its hidden state.
        scored: whether the training loss scores the prediction of this token.
    """

    position: int
    token_id: int
    text: str
    role: Role
    intervened: bool
    scored: bool


def mark_tokens(chat: ChatFormat, turn: Turn) -> Iterator[MarkedToken]:
    """The tokens of a row, in order."""
    prompt = turn.prompt
    for position, token_id in enumerate(turn.ids):
        role: Role = "response"
        if position < prompt.prefix_length:
            role = "prefix"
        elif position == prompt.source_position:
            role = "source"
        elif position < len(prompt.ids):
            role = "prompt"
        yield MarkedToken(
            position,
            token_id,
            chat.tokenizer.decode([token_id]),
            role,
            intervened=position >= prompt.prefix_length,
            scored=position >= len(prompt.ids),
        )


def format_marks(chat: ChatFormat, turn: Turn) -> str:
    """A table for the terminal, one token a line."""
    lines = ["pos  id      role      intervened  scored  token"]
    for mark in mark_tokens(chat, turn):
        lines.append(
            f"{mark.position:<4} {mark.token_id:<7} {mark.role:<9} "
            f"{'x' if mark.intervened else '.':<11} {'x' if mark.scored else '.':<7} {mark.text!r}"
        )
    return "\n".join(lines)
