"""Write what a comparison, a sweep and the demo found, as tables, figures and pages."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from concept_das.data.files import write_table
from concept_das.errors import InputError
from concept_das.evaluation.recovery import Evaluation
from concept_das.reports.figures import demo_figures, figure_png, recovery_figure, tradeoff_figure
from concept_das.reports.heatmap import best_cell, heatmap
from concept_das.reports.page import Card, Picture, Sample, write_page
from concept_das.reports.tables import (
    DASH,
    STRENGTHS,
    UNMEASURED,
    Strength,
    average,
    average_cells,
    shown_averages,
    shown_cells,
    summarise,
    to_markdown,
    units,
    write_markdown,
)
from concept_das.runs.files import write_atomically
from concept_das.steering.factors import Latents
from concept_das.steering.vector import SteeringVector
from concept_das.training.vectors import TrainedVector
from concept_das.words import DIRECTIONS, RECOVERY, Direction

_RECOVERY_READING = (
    "Recovery is measured on held-out rows without a judge: 1 is all of the prompt's effect, 0 is "
    "none, less is harm. A dash: the method cannot do it, or it was not measured.",
    "Gap: that effect, the mean log-likelihood of the held-out responses with the prompt less that "
    "without, in nats per token. Where its 95% interval over rows is not above 0 there is nothing "
    "to recover, and recovery is a dash.",
)

READING = (
    *_RECOVERY_READING,
    "Oracle: for each method and direction, the one multiplier with the highest mean recovery. It "
    "is chosen on the same rows that it is reported on, so oracle figures are optimistic, and more "
    "so where recovery depends on the multiplier. At multiplier 1, the fixed one, nothing is "
    "chosen.",
    "Fair: each half of the held-out rows is measured at the multiplier that was best on the other "
    "half, for each vector by itself; the multiplier shown is the mean.",
    "Side effect: KL(unsteered || steered) per token on unrelated text, in nats, at the same "
    "multiplier and in the same direction as the recovery beside it.",
)

INTERVALS = {
    "concept_id": "Means are over concepts, each the mean over its seeds. In brackets: Student's "
    "95% interval over concepts.",
    "seed": "Means are over seeds of one concept. In brackets: Student's 95% interval over seeds; "
    "it says nothing about other concepts.",
}

HEADINGS: dict[Strength, str] = {
    "oracle": "At the oracle multiplier",
    "fair": "At the fair multiplier",
    "unit": "At multiplier 1",
}

SWEEP_READING = (
    *_RECOVERY_READING,
    "Each figure is a mean over seeds. Oracle: at the multiplier with the highest mean recovery in "
    "that direction, which the table shows; divergence and side effect are measured there. At 1: "
    "at multiplier 1, so nothing is chosen. Fair: each half of the held-out rows at the multiplier "
    "that was best on the other half. Side effect: KL(unsteered || steered) per token on unrelated "
    "text, in nats.",
    "Layer, rank and oracle multiplier are chosen on the same rows that they are reported on, so "
    "the best is optimistic. Measure what you choose on other rows before you report it.",
)


def write_comparison(
    folder: Path,
    table: pd.DataFrame,
    title: str,
    notes: Sequence[str] = (),
    samples: pd.DataFrame | None = None,
) -> Path:
    """Write table.csv, summary.csv, summary.md, recovery.png, tradeoff.png and comparison.html.

    Args:
        table: as in `summarise`.
        notes: plain sentences that stand above the results.
        samples: answers to show: method, concept, direction, instruction, text.

    Returns:
        The path of the page, which holds everything that it shows.

    Raises:
        InputError: as in `summarise`, or if the samples lack a column.
    """
    summary, averages = summarise(table), average(table)
    groups = _group_samples(samples, list(averages["method"]))
    shown = {HEADINGS[strength]: shown_averages(averages, strength) for strength in STRENGTHS}
    tables = {heading: table for heading, table in shown.items() if set(table) - UNMEASURED}
    recovery = figure_png(recovery_figure(summary))
    tradeoff = figure_png(tradeoff_figure(averages))
    write_table(folder / "table.csv", table)
    write_table(folder / "summary.csv", summary)
    reading = [*READING, INTERVALS[units(table)]]
    unclear = list(_unclear(table))
    write_markdown(folder / "summary.md", title, [*notes, *unclear], tables, reading)
    write_atomically(folder / "recovery.png", recovery)
    write_atomically(folder / "tradeoff.png", tradeoff)
    return write_page(
        folder / "comparison.html",
        title,
        notes,
        tables,
        {
            "Recovery and side effect": Picture(
                tradeoff,
                "Each method at its fair multiplier, means over concepts and seeds. Vertical "
                "lines: the 95% intervals of the table. Up and to the left is better.",
            ),
            "Recovery by strength": Picture(
                recovery,
                "Means over seeds; bands are one standard deviation over seeds to each side. A "
                "method without a multiplier stands at 1.",
            ),
        },
        subtitle=f"Methods: {len(averages)}. Concepts: {summary['concept_id'].nunique()}. "
        f"Seeds: {table['seed'].nunique()}.",
        warnings=unclear,
        reading=[*reading, "A click on a column's name sorts the table."],
        folded={"All concepts and multipliers, with standard deviations (sd) over seeds": summary},
        samples=groups,
        samples_note="Held-out instructions, greedy decoding, multiplier 1, first seed. Elicit: "
        "the bare instruction, steered towards the concept. Suppress: the prompt that asks for the "
        "concept, steered away from it.",
    )


def _unclear(table: pd.DataFrame) -> Iterator[str]:
    """A sentence for each direction in which some concept has no recovery for want of a gap."""
    for direction, name in RECOVERY.items():
        gap = f"gap_{direction}"
        if gap in table:
            found = table.loc[table[gap].notna() & table[name].isna(), "concept_id"].unique()
            if len(found):
                plural = "s" if len(found) > 1 else ""
                yield (
                    f"The prompt itself has no clear effect on the held-out rows of "
                    f"concept{plural} {', '.join(map(str, found))} ({direction}): recovery is a "
                    "dash there and in no mean."
                )


def _group_samples(samples: pd.DataFrame | None, methods: list[str]) -> dict[str, list[Sample]]:
    """The answers of all methods to each instruction, by concept; elicitation first."""
    if samples is None or samples.empty:
        return {}
    missing = {"method", "concept", "direction", "instruction", "text"} - set(samples)
    if missing:
        raise InputError(f"the samples have no column {min(missing)!r}; give what compare answered")
    place = {method: number for number, method in enumerate(methods)}
    ordered = samples.fillna("").sort_values(
        "method", key=lambda names: names.map(place), kind="stable"
    )
    grouped: dict[str, list[Sample]] = {}
    for concept in samples["concept"].fillna("").unique():
        for direction in DIRECTIONS:
            own = ordered[(ordered["concept"] == concept) & (ordered["direction"] == direction)]
            grouped.setdefault(concept, []).extend(
                Sample(
                    str(instruction),
                    list(zip(answers["method"], answers["text"], strict=True)),
                    direction,
                )
                for instruction, answers in own.groupby("instruction", sort=False)
            )
    return grouped


def write_sweep(folder: Path, table: pd.DataFrame, title: str) -> Path:
    """Write table.csv, heatmap.png and summary.md.

    Args:
        table: as in `average_cells`.

    Returns:
        The path of the summary.

    Raises:
        InputError: as in `average_cells`.
    """
    averages = average_cells(table)
    notes = [
        *_unclear(table),
        "\n".join(f"- {line}" for line in _choices(table, averages)),
        "![recovery and side effect by layer and rank](heatmap.png)",
        to_markdown(shown_cells(averages)),
    ]
    write_table(folder / "table.csv", table)
    write_atomically(folder / "heatmap.png", figure_png(heatmap(averages)))
    write_markdown(folder / "summary.md", title, notes, {}, SWEEP_READING)
    return folder / "summary.md"


def _choices(table: pd.DataFrame, averages: pd.DataFrame) -> Iterator[str]:
    """Sentences that name the best layer and rank, per direction and for both together."""
    for direction in DIRECTIONS:
        yield _best(table, averages, direction)
    best = best_cell(averages[[*RECOVERY.values()]].mean(axis=1, skipna=False))
    if best is not None:
        cell = averages.iloc[best]
        values = " and ".join(f"{cell[name]:.3f}" for name in RECOVERY.values())
        yield f"**both**, by the mean of the two recoveries: {_place(cell)}: {values}."


def _best(table: pd.DataFrame, averages: pd.DataFrame, direction: Direction) -> str:
    """A sentence about the highest recovery in a direction and its interval."""
    name = RECOVERY[direction]
    best = best_cell(averages[name])
    gap = f"gap_{direction}"
    if best is None and gap in table and table[gap].notna().any():
        return f"**{direction}**: there is no recovery to choose by."
    if best is None:
        return f"**{direction}**: the method does not steer this way."
    cell = averages.iloc[best]
    multiplier = cell[f"multiplier_{direction}"]
    text = f"**{direction}**: {_place(cell)}, multiplier {multiplier:g}: recovery {cell[name]:.3f}"
    text += " (oracle)"
    if gap in cell:
        text += f", gap {cell[gap]:.3g}"
    text += f", held-out JSD {cell[f'heldout_jsd_{direction}']:.3f}"
    effect = f"kl_side_effect_{direction}"
    if effect in cell:
        text += f", side effect {cell[effect]:.2g}"
    own = table[
        (table["layer"] == cell["layer"])
        & (table["rank"] == cell["rank"])
        & (table["multiplier"] == multiplier)
    ]
    low, high = own[f"{name}_low"].min(), own[f"{name}_high"].max()
    if pd.isna(low):
        return f"{text}."
    others = int((averages[name] >= low).sum()) - 1
    of_seeds = ", from the lowest to the highest of the seeds" if len(own) > 1 else ""
    return (
        f"{text}. 95% interval over held-out rows{of_seeds}: {low:.3f} to {high:.3f}; of the other "
        f"{len(averages) - 1} pairs of layer and rank, {others} come within it."
    )


def _place(cell: "pd.Series[Any]") -> str:
    return f"layer {cell['layer']:.0f}, rank {cell['rank']:.0f}"


def write_report(
    path: Path,
    trained: TrainedVector,
    latents: Latents,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    metrics: dict[str, float],
    words: Sequence[str] = (),
) -> Path:
    """Write the page of the demo.

    Args:
        words: the concept's own, by which answers were recognised.
    """
    vector = trained.vector
    assert isinstance(vector, SteeringVector)
    return write_page(
        path,
        vector.concept,
        [
            "Recovery is measured on held-out prompts without a judge: 1 means that the vector "
            "changes the likelihood of the other class's response as much as the prompt does, 0 "
            "that it does nothing. Fair: each half of the rows is measured at the multiplier that "
            "was best on the other half. Oracle: the multiplier was chosen on the rows it is "
            "reported on."
        ],
        figures={
            name: Picture(figure_png(figure), caption, wide=False)
            for name, caption, figure in demo_figures(trained.history, latents, evaluation.table)
        },
        subtitle=f"{vector.model.name}, {_blocks(vector)} of {vector.model.n_layers}, rank "
        f"{vector.rank}, method {vector.method}, {vector.recipe['rows']} training quadruples.",
        warnings=[
            f"The prompt itself has no clear effect on the held-out rows ({direction}): the 95% "
            "interval of the gap is not above 0, so that there is no recovery."
            for direction, name in RECOVERY.items()
            if np.isnan(metrics[name])
        ],
        cards=_cards(metrics),
        folded={"All multipliers": evaluation.table},
        samples={"Answers to held-out instructions": samples} if samples else {},
        samples_note="Held-out instructions, greedy decoding, multiplier 1. Elicited: the bare "
        "instruction, steered towards the concept. Suppressed: the prompt that asks for the "
        f"concept, steered away from it. {_recognised(metrics, words)}",
        preformatted={"The vector": json.dumps(vector.describe(), indent=2)},
    )


def _recognised(metrics: dict[str, float], words: Sequence[str]) -> str:
    shares = {n.removeprefix("recognised: "): v for n, v in metrics.items() if "recognised" in n}
    if not shares or not words:
        return ""
    counted = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return (
        f"Answers with at least one of the {len(words)} words that mark the concept in its "
        f"training texts ({', '.join(words[:8])} ...): {counted}."
    )


def _blocks(vector: SteeringVector) -> str:
    names = ", ".join(map(str, vector.layers))
    return f"output of block {names}" if len(vector.layers) == 1 else f"outputs of blocks {names}"


def _cards(metrics: dict[str, float]) -> list[Card]:
    """The recoveries, gaps, divergences and side effects, in large type."""

    def number(name: str) -> str:
        return DASH if np.isnan(metrics[name]) else f"{metrics[name]:.2f}"

    def recovery(direction: Direction) -> Card:
        name = RECOVERY[direction]
        note = f"fair; at multiplier 1: {number(f'{name}_at_1')}; oracle: "
        note += f"{number(f'{name}_oracle')} at {metrics[f'multiplier_{direction}_oracle']:g}"
        return Card(number(name), name.replace("_", " "), note)

    gap, jsd, effect = (
        [metrics[f"{measure}_{direction}"] for direction in DIRECTIONS]
        for measure in ("gap", "heldout_jsd", "kl_side_effect")
    )
    return [
        *map(recovery, DIRECTIONS),
        Card(
            f"{gap[0]:.2f} / {gap[1]:.2f}",
            "gap",
            "elicit / suppress, the prompt's own effect, nats per token",
        ),
        Card(f"{jsd[0]:.3f} / {jsd[1]:.3f}", "held-out JSD", "elicit / suppress, nats per token"),
        Card(
            f"{effect[0]:.2f} / {effect[1]:.3f}",
            "KL side effect",
            "elicit / suppress, unrelated text, nats per token",
        ),
    ]
