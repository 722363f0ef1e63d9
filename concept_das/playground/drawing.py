"""The page's pictures of text, as HTML: tokens in colour, and bars above tokens."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from concept_das.playground.answers import Playground
from concept_das.playground.reading import Change, Place, Read, is_anchored
from concept_das.steering.vector import SteeringVector

# Both are told apart with every common kind of colour blindness, and on light and dark pages.
_BELOW, _ABOVE = "70, 140, 220", "240, 120, 20"
_PART = "\ufffd"  # of a character that is not complete

_STRONGEST = 0.7  # opacity
_TALLEST = 36  # pixels of a bar
_FULL = 1.5  # distance from 0 at which an anchored coordinate has its strongest colour

STYLE = f"""
.cd-card {{ border: 1px solid var(--border-color-primary); border-radius: 8px;
  padding: 10px 14px 12px; height: 100%; box-sizing: border-box; }}
.cd-card h4 {{ margin: 0 0 6px; font-size: 0.95em; font-weight: 600; }}
.cd-text {{ white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; }}
.cd-text span {{ border-radius: 3px; padding: 1px 0; }}
.cd-faint {{ opacity: 0.6; }}
.cd-note {{ font-size: 0.85em; opacity: 0.8; line-height: 1.5; }}
.cd-error {{ border-left: 4px solid rgb(200, 40, 40); padding: 8px 12px; font-weight: 600;
  background: rgba(200, 40, 40, 0.1); }}
.cd-scale {{ display: inline-block; width: 110px; height: 10px; border-radius: 3px;
  margin: 0 6px; background: linear-gradient(to right, rgba({_BELOW}, {_STRONGEST}),
  rgba({_BELOW}, 0) 50%, rgba({_ABOVE}, 0) 50%, rgba({_ABOVE}, {_STRONGEST})); }}
.cd-bars {{ display: flex; flex-wrap: wrap; align-items: flex-end; row-gap: 4px;
  margin-bottom: 6px; }}
.cd-bars .cd-token {{ display: inline-flex; flex-direction: column; justify-content: flex-end;
  height: {_TALLEST + 24}px; white-space: pre; }}
.cd-bars .cd-bar {{ background: rgba({_ABOVE}, 0.85); min-width: 5px; margin: 0 1px;
  border-radius: 2px 2px 0 0; }}
.cd-bars .cd-piece {{ border-top: 1px solid rgba(128, 128, 128, 0.6); }}
.cd-bars .cd-break {{ flex-basis: 100%; }}
"""


def card(title: str, inner: str) -> str:
    """A box with a title; nothing if there is nothing in it."""
    return f'<div class="cd-card"><h4>{escape(title)}</h4>{inner}</div>' if inner else ""


def growing(text: str) -> str:
    """A text that is still being written."""
    return f'<div class="cd-text">{escape(text.rstrip(_PART))}<span class="cd-faint">…</span></div>'


def note(text: str) -> str:
    """A line in small type."""
    return f'<div class="cd-note">{escape(text)}</div>'


def error(sentence: str) -> str:
    """A sentence that says what cannot be done; nothing if there is none."""
    return f'<div class="cd-error" role="alert">{escape(sentence)}</div>' if sentence else ""


def scale_of(vector: SteeringVector, texts: Iterable[Read], place: Place) -> tuple[float, float]:
    """The coordinate without colour, and the distance from it that has the strongest colour."""
    if is_anchored(vector):
        return 0.0, _FULL
    values = [value for text in texts for value in text.coordinates[place]] or [0.0]
    low, high = min(values), max(values)
    return (low + high) / 2, max((high - low) / 2, 1e-12)


def coloured(text: Read, place: Place | None, scale: tuple[float, float]) -> str:
    """A text with each token coloured by its coordinate, which is shown where one points."""
    if place is None:
        return f'<div class="cd-text">{escape("".join(text.pieces))}</div>'
    spans = [
        f'<span style="background: {_colour(value, scale)}" title="{value:.2f}">'
        f"{escape(piece)}</span>"
        for piece, value in zip(text.pieces, text.coordinates[place], strict=True)
    ]
    return f'<div class="cd-text">{"".join(spans)}</div>'


def _colour(value: float, scale: tuple[float, float]) -> str:
    centre, full = scale
    share = max(-1.0, min(1.0, (value - centre) / full)) if math.isfinite(value) else 0.0
    return f"rgba({_ABOVE if share > 0 else _BELOW}, {abs(share) * _STRONGEST:.2f})"


def legend(playground: Playground, place: Place | None, scale: tuple[float, float]) -> str:
    """One line that says what the colours mean."""
    if place is None:
        return ""
    vector = playground.vectors[place[0]]
    assert isinstance(vector, SteeringVector)
    centre, full = scale
    ends = f"{centre - full:.1f}", f"{centre + full:.1f}"
    blocks = vector.layers if place[1] is None else (place[1],)
    where = f"mean over the blocks {', '.join(map(str, blocks))}"
    if len(blocks) == 1:
        where = f"after block {blocks[0]}"
    zero = "in units of the hidden state"
    if is_anchored(vector):
        zero = "0 is like a neutral prompt, 1 like a prompt that asks for the concept"
    which = f" {escape(place[0])}" if len(playground.vectors) > 1 else ""
    return (
        f'<div class="cd-note">{ends[0]}<span class="cd-scale"></span>{ends[1]} &nbsp; Colour: '
        f"each token's coordinate along the vector{which}, {where}, as the unsteered model reads "
        f"the text ({zero}).</div>"
    )


def bars(changes: Sequence[Change]) -> str:
    """The steered answer with a bar above each token, as high as its divergence."""
    if not changes:
        return note("The steered answer is empty.")
    values = [change.divergence for change in changes]
    # At 0 everywhere no bar is to be seen.
    tokens = "".join(_bar(change, max(*values, 0.01)) for change in changes)
    explained = (
        "Bars: how far the steered model's prediction of a token is from the unsteered model's "
        f"(Jensen-Shannon divergence; mean {sum(values) / len(values):.2f} nats, largest "
        f"{max(values):.2f}; 0 is no change and 0.69 nothing in common). Point at a token to see "
        "what each model expected."
    )
    return f'<div class="cd-bars">{tokens}</div>{note(explained)}'


def _bar(change: Change, largest: float) -> str:
    height = _TALLEST * change.divergence / largest
    told = (
        f"{change.divergence:.2f} nats; likeliest unsteered: {change.unsteered[0]!r} "
        f"({change.unsteered[1]:.0%}), steered: {change.steered[0]!r} ({change.steered[1]:.0%})"
    )
    shown = change.piece.replace("\n", "⏎")
    breaks = '<span class="cd-break"></span>' * ("\n" in change.piece)
    return (
        f'<span class="cd-token" title="{escape(told)}">'
        f'<span class="cd-bar" style="height: {height:.0f}px"></span>'
        f'<span class="cd-piece">{escape(shown)}</span></span>{breaks}'
    )
