"""A run as one self-contained HTML page."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from concept_das.data.quadruples import Direction
from concept_das.evaluation.recovery import RECOVERY, Evaluation
from concept_das.runs.files import write_atomically
from concept_das.steering.factors import Latents
from concept_das.training.vectors import TrainedVector
from interventions import orthonormal_rows

NEUTRAL, CONCEPT = "#4477aa", "#cc6677"
COLOURS: dict[Direction, str] = {"elicit": CONCEPT, "suppress": NEUTRAL}


@dataclass(frozen=True)
class Sample:
    """Answers to one instruction.

    Attributes:
        neutral: bare instruction, unsteered.
        elicited: bare instruction, steered towards the concept.
        concept: concept prompt, unsteered.
        suppressed: concept prompt, steered away from the concept.
    """

    instruction: str
    neutral: str
    elicited: str
    concept: str
    suppressed: str


def write_report(
    path: Path,
    trained: TrainedVector,
    latents: Latents,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    metrics: dict[str, float],
) -> Path:
    """Write the page; everything it shows is inside it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("concept_das", "resources"), autoescape=True
    )
    figures = [
        ("Loss", "Jensen-Shannon divergence per response token, in nats. Dots are training steps, "
         "lines held-out rows after each epoch.", _drawn(_loss, trained.history)),
        ("Latents", "Coordinate of each training prompt along the direction, at the source token. "
         "The dashed lines are the two measured factors.", _drawn(_latents, latents)),
        ("Recovery", "Share of the prompt's effect on the held-out responses that the vector has, "
         "with 95% bootstrap intervals. 1 is all of it.", _drawn(_recovery, evaluation.table)),
        ("Side effect", "KL(unsteered || steered) per token on unrelated text, in nats.",
         _drawn(_side_effect, evaluation.table)),
    ]  # fmt: skip
    page = environment.get_template("report.html").render(
        vector=trained.vector,
        description=trained.vector.describe(),
        metrics=metrics,
        figures=figures,
        samples=samples,
        table=evaluation.table.round(3).to_dict("records"),
        columns=list(evaluation.table.columns),
    )
    write_atomically(path, page.encode())
    return path


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG file, with nothing in it that is not in the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def figure_address(png: bytes) -> str:
    """A PNG as a data address, for a page that holds its own figures."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _drawn(draw: Callable[[Axes, Any], None], data: Any) -> str:
    figure = Figure(figsize=(5.2, 3.4), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, data)
    return figure_address(figure_png(figure))


def _loss(axes: Axes, history: Sequence[dict[str, float]]) -> None:
    steps = pd.DataFrame([record for record in history if "loss" in record])
    epochs = pd.DataFrame([record for record in history if "heldout_loss" in record])
    for direction, colour in COLOURS.items():
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
    axes.legend(frameon=False)


def _latents(axes: Axes, latents: Latents) -> None:
    """At rank 1 the coordinate itself; above, along the line between the two means."""
    gap = latents.positive_factor - latents.negative_factor
    axis = orthonormal_rows(gap.unsqueeze(0))[0] if len(gap) > 1 else gap.sign().abs()
    for values, colour, label in (
        (latents.negative @ axis, NEUTRAL, "neutral prompts"),
        (latents.positive @ axis, CONCEPT, "concept prompts"),
    ):
        axes.hist(values.numpy(), bins=16, color=colour, alpha=0.6, label=label)
        axes.axvline(float(values.mean()), color=colour, linestyle="--")
    axes.set(xlabel="coordinate", ylabel="prompts")
    axes.legend(frameon=False)


def _recovery(axes: Axes, table: pd.DataFrame) -> None:
    for direction, colour in COLOURS.items():
        name = RECOVERY[direction]
        axes.fill_between(
            table["multiplier"],
            table[f"{name}_low"],
            table[f"{name}_high"],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(table["multiplier"], table[name], "o-", color=colour, label=direction)
    axes.axhline(0, color="grey", linewidth=0.8)
    low = float(np.nanmin(table[[*RECOVERY.values()]].to_numpy()))
    axes.set_ylim(max(low, -1.0) - 0.1, 1.05)
    axes.set(xlabel="multiplier", ylabel="recovery")
    axes.legend(frameon=False)


def _side_effect(axes: Axes, table: pd.DataFrame) -> None:
    for direction, colour in COLOURS.items():
        axes.plot(
            table["multiplier"],
            table[f"kl_side_effect_{direction}"],
            "o-",
            color=colour,
            label=direction,
        )
    axes.set(xlabel="multiplier", ylabel="KL (nats)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
