"""Conversations in a cell: `messages` as chat models take them, and ShareGPT's `conversations`."""

from collections.abc import Iterable, Mapping
from typing import Any

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
