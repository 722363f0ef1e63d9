"""Quadruples as token ids: the edited passes that training and evaluation make of a row."""

from collections.abc import Sequence
from dataclasses import dataclass

from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError

# What can be done to hidden states in training: `interchange`, `add`, `null_out`, `loreft`, ...
EditName = str


@dataclass(frozen=True)
class EditedPass:
    """One edited forward pass over a row.

    Attributes:
        base: the prompt and the response that is scored; the edited run.
        source: the source prompt with the same response: the untouched run, the teacher, whose
            source token gives the coordinates. None for edits that need no source.
        edit: what is done to the base's hidden states.
        factor: multiple of the direction, for `add`.
    """

    base: Turn
    source: Turn | None
    edit: EditName = "interchange"
    factor: float = 1.0


@dataclass(frozen=True)
class Interchange(EditedPass):
    """One direction of a quadruple: a run with its source."""

    source: Turn


@dataclass(frozen=True)
class EncodedQuadruple:
    """Both directions of one quadruple.

    Attributes:
        elicit: neutral base, concept source, concept response (D+).
        suppress: concept base, neutral source, neutral response (D-).
    """

    elicit: Interchange
    suppress: Interchange


def encode_quadruples(
    rows: Sequence[Quadruple],
    chat: ChatFormat,
    *,
    max_response_tokens: int | None = None,
    max_positions: int | None = None,
) -> list[EncodedQuadruple]:
    """Token ids of every row; no end-of-turn token is appended to a response (as in the paper).

    Args:
        max_response_tokens: responses are cut to this many tokens.
        max_positions: the model's context length.

    Raises:
        InputError: naming the row whose prompt is refused by the chat format or does not fit the
            context with its response, or whose response has no tokens; or if `max_response_tokens`
            is below 1.
    """
    if max_response_tokens is not None and max_response_tokens < 1:
        raise InputError(f"max_response_tokens is {max_response_tokens}; it must be at least 1")
    encoded = []
    for number, row in enumerate(rows):
        try:
            neutral, concept = chat.prompt(row.negative_input), chat.prompt(row.positive_input)
        except InputError as error:
            raise InputError(f"row {number}: {error}") from error
        responses = {}
        for column in ("negative_output", "positive_output"):
            ids = chat.text_ids(getattr(row, column))[:max_response_tokens]
            if not ids:
                raise InputError(f"row {number}, column {column!r} has no tokens; fill or drop it")
            responses[column] = ids
        longest = max(len(neutral.ids), len(concept.ids)) + max(map(len, responses.values()))
        if max_positions is not None and longest > max_positions:
            raise InputError(
                f"row {number} needs {longest} tokens but the model takes {max_positions}; shorten "
                "its input or lower max_response_tokens"
            )
        positive, negative = responses["positive_output"], responses["negative_output"]
        encoded.append(
            EncodedQuadruple(
                elicit=Interchange(
                    neutral.with_response(positive), concept.with_response(positive)
                ),
                suppress=Interchange(
                    concept.with_response(negative), neutral.with_response(negative)
                ),
            )
        )
    return encoded
