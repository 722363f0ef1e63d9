"""`concept-das compare`."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.methods.settings import check_changes, with_changes
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import TrackingMode, check_tracking, open_tracker

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)


def compare(
    data: str,
    out: Path,
    layer: int,
    loading: ModelOptions,
    chat: ChatOptions,
    engine: EngineOptions,
    methods: str = "all",
    changes: dict[str, dict[str, Any]] = {},  # noqa: B006 (shown in the help)
    seeds: list[int] = [42, 43, 44],  # noqa: B006
    heldout: int = 12,
    rows: int | None = None,
    multipliers: list[float] = [0.5, 1.0, 1.5, 2.0],  # noqa: B006
    unrelated: int = 8,
    generations: int = 4,
    new_tokens: int = 32,
    wandb: TrackingMode = "auto",
) -> None:
    """Train methods on the same rows and measure them in the same way.

    Args:
        data: quadruples of one or more concepts; several files with commas between them.
        out: folder of the comparison: table.csv, summary.md, comparison.html, and every vector.
            What is finished there is not done again.
        layer: decoder block of the methods that act at one, 0-based.
        methods: names with commas between them, or all. A method is there in another form under its
            name, @ and a word of yours: cdas,cdas@spread.
        changes: hyper-parameters in place of the methods' own, as JSON by method or for all, e.g.
            '{"all": {"epochs": 6}, "cdas": {"rank": 4}, "cdas@spread": {"layers": "spread"}}'.
        seeds: one training each.
        heldout: rows held out per concept, the same for every method.
        rows: training rows per concept; all that are not held out if not given.
        multipliers: strengths to measure at, without unit.
        unrelated: shipped texts that the side effect is measured on.
        generations: held-out instructions answered at every strength.
        new_tokens: length of these answers.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    from concept_das import find_method
    from concept_das.data.files import read_concepts
    from concept_das.experiments.comparison import ComparisonPlan
    from concept_das.experiments.comparison import compare as compare_methods
    from concept_das.reports.results import write_comparison

    configs = {}
    for label in _names(methods):
        config = with_changes(find_method(label.partition("@")[0]).config(), changes)
        configs[label] = with_changes(config, {config.method: changes.get(label, {})})
    check_changes(changes, dict.fromkeys([*configs, *(c.method for c in configs.values())]))
    concepts = read_concepts(data.split(","))
    plan = ComparisonPlan(
        layer=layer,
        seeds=tuple(seeds),
        heldout=heldout,
        rows=rows,
        multipliers=tuple(multipliers),
        unrelated=unrelated,
        generations=generations,
        new_tokens=new_tokens,
    )
    check_tracking(wandb)
    loaded = loading.load()
    settings = {label: asdict(config) for label, config in configs.items()}
    options = {"data": data, "methods": settings, **asdict(plan)}
    tracker = open_tracker(wandb, name=out.name, config=options, folder=out)
    try:
        table = compare_methods(
            loaded, chat.of(loaded), concepts, configs, plan, out, engine=engine
        )
        tracker.table("comparison", list(table.columns), table.to_numpy().tolist())
    finally:
        tracker.finish()
    page = write_comparison(out, table, f"{loaded.name}, layer {layer}", samples=_samples(out))
    log.info("open %s", page.resolve())


def _names(methods: str) -> list[str]:
    from concept_das.methods import all_methods

    if methods == "all":
        return list(all_methods())
    names = [name.strip() for name in methods.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"a method is named twice in {methods!r}")
    return names


def _samples(out: Path) -> "pandas.DataFrame | None":
    """The answers at multiplier 1, of the first seed."""
    from concept_das.experiments.comparison import read_answers

    answers = read_answers(out)
    if answers.empty:
        return None
    shown = answers[(answers["multiplier"] == 1.0) & (answers["seed"] == answers["seed"].min())]
    return shown[["method", "concept", "direction", "instruction", "text"]]
