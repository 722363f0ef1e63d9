"""Token ids of text in which nothing is read as a special token, in the middle of a conversation.

A tokenizer cuts a text at its special tokens and encodes the stretches between them. Some begin
each stretch, or the first, with a space (Llama-2, Zephyr). So the stretch around a text is encoded
alone, behind an anchor if the tokenizer treats the first one differently; the way that does this
right is found by comparing with the whole.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import product

from transformers import PreTrainedTokenizerBase

from concept_das.data.chat_template import ChatTemplate
from concept_das.errors import InputError

_PROBE = "Hi"
_ANCHORS = ("", "\n", "a", ":")


@dataclass(frozen=True)
class PlainText:
    """Encodes texts inside one chat template.

    Attributes:
        special: the texts of special tokens.
        around: ids and text before a user's text, text and ids after it; None if no way was found.
        anchor: put before an answer, and its ids taken away again.
        space: white space that the template puts before an answer.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    special: tuple[str, ...]
    around: tuple[tuple[int, ...], str, str, str, tuple[int, ...]] | None
    anchor: str
    space: str

    @classmethod
    def of(cls, template: ChatTemplate) -> "PlainText":
        """Find how a tokenizer encodes the middle of a conversation."""
        tokenizer = template.tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special} | {*tokenizer.all_special_tokens}
        opened = template.render(_PROBE)
        space = template.space_before_answer()
        before = ids_of(tokenizer, opened)
        whole = ids_of(tokenizer, f"{opened}{space}{_PROBE}")
        anchor = ""
        if whole[: len(before)] == before:
            fitting = (
                a for a in _ANCHORS if _plain(tokenizer, space + _PROBE, a) == whole[len(before) :]
            )
            anchor = next(fitting, "")
        return cls(
            tokenizer,
            tuple(sorted(special)),
            _around(template, special, before),
            anchor,
            space,
        )

    def spells_special_tokens(self, text: str) -> bool:
        """True if some part of the text would be read as a special token."""
        return any(token in text for token in self.special)

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """Ids of the conversation around a user's text that spells special tokens.

        Raises:
            InputError: if this tokenizer cannot read them as text.
        """
        encoded = None
        if self.around is not None:
            head, lead, trail, anchor, tail = self.around
            encoded = _plain(self.tokenizer, lead + text + trail, anchor)
        if encoded is None:
            raise InputError(
                f"the instruction {text[:40]!r} spells a special token, which this tokenizer "
                "cannot read as plain text in the chat template; remove the row"
            )
        return (*head, *encoded, *tail)

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Ids of an answer."""
        if not text:
            return ()
        encoded = _plain(self.tokenizer, self.space + text, self.anchor)
        return tuple(_plain(self.tokenizer, text, "") or () if encoded is None else encoded)


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False) -> list[int]:
    """Ids of a text, none added.

    Args:
        plain: read no special tokens in it.
    """
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        split_special_tokens=plain,
        return_attention_mask=False,
        verbose=False,
    )
    return list(encoded.input_ids)


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, anchor: str) -> list[int] | None:
    """Ids of a text behind an anchor, without the anchor's; None if they run together."""
    first = ids_of(tokenizer, anchor, plain=True) if anchor else []
    whole = ids_of(tokenizer, anchor + text, plain=True)
    return whole[len(first) :] if whole[: len(first)] == first else None


def _around(
    template: ChatTemplate, special: Collection[str], expected: list[int]
) -> tuple[tuple[int, ...], str, str, str, tuple[int, ...]] | None:
    """The template's text on either side of the user's, up to the nearest special tokens."""
    before, after, tokenizer = template.before, template.after, template.tokenizer
    cut = max((before.rfind(token) + len(token) for token in special if token in before), default=0)
    end = min((after.find(token) for token in special if token in after), default=len(after))
    head, lead, trail, tail = before[:cut], before[cut:], after[:end], after[end:]
    outer = [tuple(ids_of(tokenizer, text)) if text else () for text in (head, tail)]
    # Some special tokens swallow the white space beside them.
    for own_lead, own_trail, anchor in product(
        (lead, lead.lstrip()), (trail, trail.rstrip()), _ANCHORS
    ):
        inner = _plain(tokenizer, own_lead + _PROBE + own_trail, anchor)
        if inner is not None and [*outer[0], *inner, *outer[1]] == expected:
            return outer[0], own_lead, own_trail, anchor, outer[1]
    return None
