"""The size of a safety benchmark's run before it starts; nothing is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import pandas as pd

from benchmarks.command import with_total
from benchmarks.safety.case import Case
from benchmarks.safety.settings import Settings
from benchmarks.steps import UNSTEERED
from concept_das.methods import TrainedMethod, find_method
from concept_das.words import DIRECTIONS


@dataclass(frozen=True)
class Size:
    """The size of the data.

    Attributes:
        rows: training pairs; at most so many where the model writes them.
        prompts: test prompts by their set.
        written: answers of the untouched model that the pairs are made of.
    """

    rows: int
    prompts: Mapping[str, int]
    written: int = 0


def counts(case: Case, settings: Settings, size: Size) -> pd.DataFrame:
    """A row for the untouched model and for each method.

    Returns:
        Over all seeds or layers: `trainings` and their `steps`, `multipliers`, generated `answers`,
        their `new_tokens` if all are of full length, `pairs` of texts whose divergence is measured,
        and `capability_runs`, how often all tasks are asked.
    """
    names = (UNSTEERED, *settings.configs)
    return pd.DataFrame([_method(case, settings, size, name) for name in names])


def estimate_text(case: Case, settings: Settings, size: Size) -> str:
    """The size of a run in words and a table."""
    table = counts(case, settings, size)
    total = table.drop(columns=["method", "multipliers"]).sum()
    sets = ", ".join(f"{count} {name} prompts" for name, count in size.prompts.items())
    lines = [
        f"{case.name}, preset {settings.preset.name}: {size.rows} training pairs, {sets}. "
        "Nothing has been run.",
        "",
        with_total(table, total),
        "",
    ]
    if size.written:
        lines.append(f"training pairs: from {size.written:,} answers of the untouched model")
    limit = settings.choices.capability_limit
    asked = f", the first {limit} questions of each" if limit else ""
    lines.append(f"capabilities: {', '.join(settings.tasks) or 'none'}{asked}")
    if case.judge is not None:
        verdicts = total["answers"] + len(case.rules[0].labelled)
        lines.append(
            f"judge: {verdicts:,} verdicts by {case.judge.description['model']}, with those on "
            "labelled answers"
        )
    lines.append("hours: run one method with one seed and multiply")
    return "\n".join(lines)


def _method(case: Case, settings: Settings, size: Size, name: str) -> dict[str, Any]:
    scored = 1 if settings.tasks else 0
    if name == UNSTEERED:
        return {
            "method": name,
            "trainings": 0,
            "steps": 0,
            "multipliers": 1,
            "answers": (answers := sum(size.prompts.values())),
            "new_tokens": answers * settings.answering.new_tokens,
            "pairs": sum(size.prompts[one.prompts] for one in case.divergences),
            "capability_runs": scored,
        }
    config, method = settings.configs[name], find_method(name)
    text = name == "prompt"
    runs = len(settings.pieces) if method.draws or settings.layer is None else 1
    trained = runs if isinstance(method, TrainedMethod) else 0
    strengths = 1 if text else len(settings.multipliers(name))
    able = [way for way in DIRECTIONS if way in method.directions]
    answers = sum(size.prompts[prompts] for _, prompts in case.asks(tuple(able)))
    pairs = sum(size.prompts[one.prompts] for one in case.divergences if one.direction in able)
    scored *= 0 if text else len(settings.capability_multipliers(name))
    return {
        "method": name,
        "trainings": trained,
        "steps": trained * config.epochs * ceil(size.rows / config.batch_size),
        "multipliers": strengths,
        "answers": runs * strengths * answers,
        "new_tokens": runs * strengths * answers * settings.answering.new_tokens,
        "pairs": runs * strengths * pairs,
        "capability_runs": runs * scored,
    }
