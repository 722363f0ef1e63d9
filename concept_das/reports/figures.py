"""Draw the figures of a comparison and of the demo, and the styles that all figures share."""

import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from concept_das.methods.registry import METHODS
from concept_das.reports.tables import Strength
from concept_das.steering.factors import Latents
from concept_das.words import DIRECTIONS, RECOVERY, Direction
from interventions import orthonormal_rows

# CDAS is the project's own method: drawn over the others, and the only one in red. The rest are
# Paul Tol's colours, ordered so that neighbours in `METHODS` differ in hue and lightness.
SUBJECT = "cdas"

COLOURS = (
    "#d0021b", "#0077bb", "#ee7733", "#117733", "#aa4499", "#66bbee", "#999933",
    "#332288", "#44aa99", "#882255", "#ddaa33", "#777777", "#ee99aa", "#222222",
)  # fmt: skip

# 13 markers, as 13 and 14 have no common divisor: no two of the first 182 methods look alike.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "8", "d")

NEUTRAL, CONCEPT = "#4477aa", "#cc6677"

DIRECTION_COLOURS: dict[Direction, str] = {"elicit": CONCEPT, "suppress": NEUTRAL}

# The style of each method's line.
Styles = dict[str, dict[str, Any]]

# The most concepts that one figure shows.
MOST_CONCEPTS = 12

# The axis of recovery never goes beyond these.
Y_LIMITS = (-1.0, 1.2)

# The smallest side effect on a log axis.
LEAST_KL = 1e-5


def recovery_figure(summary: pd.DataFrame) -> Figure:
    """Recovery against multiplier: a row of panels per concept, a column per direction.

    Args:
        summary: what `summarise` returns. Of more than 12 concepts the first 12 are drawn.
    """
    concepts = summary[["concept_id", "concept"]].drop_duplicates()
    drawn = concepts.head(MOST_CONCEPTS)
    figure = Figure(figsize=(12.5, 0.6 + 3.1 * len(drawn)), layout="constrained", dpi=120)
    grid = figure.subplots(len(drawn), len(DIRECTIONS), squeeze=False, sharex=True, sharey=True)
    limits, cut = _y_limits(summary[[*RECOVERY.values()]].to_numpy())
    grid[0, 0].set_ylim(*limits)
    styles = method_styles(summary["method"])
    for row, (number, concept) in enumerate(drawn.itertuples(index=False)):
        own = summary[summary["concept_id"] == number]
        for axes, direction in zip(grid[row], DIRECTIONS, strict=True):
            _panel(axes, f"{_short(number, concept)}: {direction}")
            _lines(axes, own, direction, styles, cut)
        grid[row, 0].set_ylabel(f"recovery{_cut_note(cut)}")
    for axes in grid[-1]:
        axes.set_xlabel("multiplier")
        axes.set_xticks(sorted(summary["multiplier"].unique()))
    if len(drawn) < len(concepts):
        figure.suptitle(f"The first {len(drawn)} of {len(concepts)} concepts")
    method_legend(figure, styles)
    return figure


def tradeoff_figure(averages: pd.DataFrame) -> Figure:
    """Recovery against side effect, a panel per direction; at the fair multiplier if it is known.

    Args:
        averages: what `average` returns.
    """
    figure = Figure(figsize=(12.5, 5.2), layout="constrained", dpi=120)
    grid = figure.subplots(1, len(DIRECTIONS), squeeze=False, sharex=True, sharey=True)[0]
    strength: Strength = "fair" if "elicitation_recovery_fair" in averages else "oracle"
    names = [f"{name}_{strength}" for name in RECOVERY.values()]
    limits, cut = _y_limits(averages[names].to_numpy())
    grid[0].set_ylim(*limits)
    styles = method_styles(averages["method"])
    for axes, direction in zip(grid, DIRECTIONS, strict=True):
        _panel(axes, direction)
        _points(axes, averages, direction, styles, cut, strength)
    grid[0].set_ylabel(f"recovery at the {strength} multiplier{_cut_note(cut)}")
    method_legend(figure, styles, linestyle="none")
    return figure


def method_styles(methods: Iterable[str]) -> Styles:
    """Colour, marker, width and order of each method, the same in every comparison.

    A known method's style follows from its place in `METHODS`. Other methods take the remaining
    styles, in alphabetical order.
    """
    here = list(dict.fromkeys(methods))
    places = {method: place for place, method in enumerate(METHODS) if method in here}
    free = (place for place in count() if place not in {*places.values(), 0})
    places |= dict(zip(sorted(set(here) - places.keys()), free, strict=False))
    return {
        method: {
            "color": COLOURS[places[method] % len(COLOURS)],
            "marker": MARKERS[places[method] % len(MARKERS)],
            "linewidth": 3.0 if method == SUBJECT else 1.3,
            "markersize": 8.0 if method == SUBJECT else 6.0,
            "zorder": 5 if method == SUBJECT else 3,
        }
        for method in here
    }


def plain_panel(axes: Axes, title: str, grid: Literal["x", "y"] = "y") -> None:
    """A title on the left, and lines of the grid across the values."""
    axes.set_title(title, loc="left", fontsize="medium", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e4e4ec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=True, labelleft=True)


def method_curve(
    axes: Axes,
    method: str,
    x: pd.Series,
    values: tuple[pd.Series, pd.Series, pd.Series],
    style: dict[str, Any],
) -> None:
    """A method's line with a band around it.

    Args:
        values: the band's lower edge, the line, the band's upper edge.
    """
    low, middle, high = values
    axes.fill_between(
        x,
        low,
        high,
        color=style["color"],
        alpha=0.25 if method == SUBJECT else 0.12,
        linewidth=0,
        zorder=style["zorder"] - 2,
    )
    axes.plot(x, middle, markeredgecolor="white", markeredgewidth=0.6, **style)


def log_multipliers(axes: Axes) -> None:
    """A log axis of multipliers with round ticks."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("multiplier (log axis)")


def method_legend(figure: Figure, styles: Styles, **changed: Any) -> None:
    """The methods with their lines, beside the panels; `changed` overrides parts of the lines."""
    handles = [Line2D([], [], **style | changed) for style in styles.values()]
    figure.legend(handles, list(styles), loc="outside right upper", frameon=False)


def demo_figures(
    history: Sequence[dict[str, float]], latents: Latents, table: pd.DataFrame
) -> Iterator[tuple[str, str, Figure]]:
    """Heading, caption and figure of training, latents, recovery and side effect.

    Args:
        history: what training recorded.
        latents: of the training prompts.
        table: of the evaluation, one row per multiplier.
    """
    yield (
        "Loss",
        "Jensen-Shannon divergence per response token, in nats. Dots are training steps, lines "
        "held-out rows after each epoch.",
        _drawn(_loss, history),
    )
    yield (
        "Latents",
        "Coordinate of each training prompt along the direction, at the source token. The dashed "
        "lines are the two measured factors.",
        _drawn(_latents, latents),
    )
    yield (
        "Recovery",
        "Share of the prompt's effect on the held-out responses that the vector has, with 95% "
        "intervals over rows. 1 is all of it.",
        _drawn(_recovery, table),
    )
    yield (
        "Side effect",
        "KL(unsteered || steered) per token on unrelated text, in nats.",
        _drawn(_side_effect, table),
    )


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG file without metadata, so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _lines(
    axes: Axes,
    summary: pd.DataFrame,
    direction: Direction,
    styles: Styles,
    cut: bool,
) -> None:
    name = RECOVERY[direction]
    known = summary[summary[name].notna()]
    if known.empty:
        _say(axes, "no recovery to show")
    for method, style in styles.items():
        rows = known[known["method"] == method].sort_values("multiplier")
        mean, spread = rows[name], rows[f"{name}_sd"].fillna(0)
        drawn = style | ({"markersize": 10.0} if len(rows) == 1 else {})
        method_curve(axes, method, rows["multiplier"], (mean - spread, mean, mean + spread), drawn)
        if cut:
            _off_scale(axes, rows["multiplier"], mean, style)


def _points(
    axes: Axes,
    averages: pd.DataFrame,
    direction: Direction,
    styles: Styles,
    cut: bool,
    strength: Strength,
) -> None:
    name, effect = f"{RECOVERY[direction]}_{strength}", f"kl_side_effect_{direction}_{strength}"
    axes.set_xscale("log")
    if effect not in averages or averages[[name, effect]].dropna().empty:
        _say(axes, "not measured")
        return
    known = averages.dropna(subset=[name, effect]).set_index("method")
    floored = bool((known[effect] < LEAST_KL).any())
    note = f"; less than {LEAST_KL:g} is drawn there" if floored else ""
    axes.set_xlabel(f"KL side effect (nats per token, log axis{note})")
    for method, row in known.iterrows():
        style = styles[str(method)] | {"markersize": 14 if method == SUBJECT else 10}
        x, y = max(row[effect], LEAST_KL), row[name]
        interval = [row[f"{name}_low"], row[f"{name}_high"]]
        axes.plot([x, x], interval, color=style["color"], linewidth=1.2, alpha=0.6, zorder=2)
        axes.plot([x], [y], markeredgecolor="white", markeredgewidth=0.8, **style)
        if cut:
            _off_scale(axes, pd.Series([x]), pd.Series([y]), style)


def _off_scale(axes: Axes, x: pd.Series, y: pd.Series, style: dict[str, Any]) -> None:
    """Draw an arrow head at the edge for each value outside the axis."""
    for outside, edge, marker in ((y < Y_LIMITS[0], 0, 7), (y > Y_LIMITS[1], 1, 6)):
        axes.plot(
            x[outside],
            np.full(int(outside.sum()), Y_LIMITS[edge]),
            linestyle="none",
            marker=marker,
            markersize=style["markersize"],
            color=style["color"],
            zorder=style["zorder"],
        )


def _y_limits(values: np.ndarray) -> tuple[tuple[float, float], bool]:
    """The range of the axis, and true if it leaves a value out."""
    known = values[np.isfinite(values)]
    low, high = Y_LIMITS
    if not len(known):
        return (0.0, 1.05), False
    cut = bool(known.min() < low or known.max() > high)
    margin = 0.06
    return (
        max(min(known.min(), 0.0), low) - margin,
        min(max(known.max(), 1.0), high) + margin,
    ), cut


def _cut_note(cut: bool) -> str:
    return "\n(axis cut at {:g} and {:g}; arrows: beyond)".format(*Y_LIMITS) if cut else ""


def _panel(axes: Axes, title: str) -> None:
    plain_panel(axes, title)
    for value in (0.0, 1.0):
        axes.axhline(value, color="grey", linewidth=0.8, zorder=1)


def _short(number: int, concept: str) -> str:
    return f"{number} " + textwrap.shorten(concept, 48, placeholder="…")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="grey")


def _drawn(draw: Callable[[Axes, Any], None], data: Any) -> Figure:
    figure = Figure(figsize=(5.2, 3.4), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, data)
    axes.legend(frameon=False)
    return figure


def _loss(axes: Axes, history: Sequence[dict[str, float]]) -> None:
    steps = pd.DataFrame([record for record in history if "loss" in record])
    epochs = pd.DataFrame([record for record in history if "heldout_loss" in record])
    for direction, colour in DIRECTION_COLOURS.items():
        axes.plot(
            steps["step"],
            steps[f"loss_{direction}"],
            ".",
            color=colour,
            alpha=0.4,
            label=None if len(epochs) else direction,
        )
        if len(epochs):
            axes.plot(epochs["step"], epochs[f"heldout_{direction}"], color=colour, label=direction)
    axes.set(xlabel="step", ylabel="JSD (nats)")
    axes.set_ylim(bottom=0)


def _latents(axes: Axes, latents: Latents) -> None:
    """At rank 1 the coordinate itself; at higher ranks along the line between the two means."""
    gap = latents.positive_factor - latents.negative_factor
    axis = orthonormal_rows(gap.unsqueeze(0))[0] if len(gap) > 1 else gap.sign().abs()
    for values, colour, label in (
        (latents.negative @ axis, NEUTRAL, "neutral prompts"),
        (latents.positive @ axis, CONCEPT, "concept prompts"),
    ):
        axes.hist(values.numpy(), bins=16, color=colour, alpha=0.6, label=label)
        axes.axvline(float(values.mean()), color=colour, linestyle="--")
    axes.set(xlabel="coordinate", ylabel="prompts")


def _recovery(axes: Axes, table: pd.DataFrame) -> None:
    _by_multiplier(axes, table, RECOVERY)
    for direction, name in RECOVERY.items():
        axes.fill_between(
            table["multiplier"],
            table[f"{name}_low"],
            table[f"{name}_high"],
            color=DIRECTION_COLOURS[direction],
            alpha=0.2,
            linewidth=0,
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    values = table[[*RECOVERY.values()]].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    if not len(known):
        _say(axes, "the prompt has no clear effect to recover")
    axes.set_ylim(max(known.min(initial=1.0), -1.0) - 0.1, 1.05)
    axes.set_ylabel("recovery")


def _side_effect(axes: Axes, table: pd.DataFrame) -> None:
    _by_multiplier(axes, table, {d: f"kl_side_effect_{d}" for d in DIRECTIONS})
    axes.set_ylim(bottom=0)
    axes.set_ylabel("KL (nats)")


def _by_multiplier(axes: Axes, table: pd.DataFrame, names: dict[Direction, str]) -> None:
    for direction, name in names.items():
        colour = DIRECTION_COLOURS[direction]
        axes.plot(table["multiplier"], table[name], "o-", color=colour, label=direction)
    axes.set_xlabel("multiplier")
