"""A page for each method, from its docstrings, its recipe, and what was measured of it."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml

import objectives
from concept_das.methods import METHODS, Method
from concept_das.methods.recipes import FOLDER as RECIPES
from concept_das.reports.tables import to_markdown
from concept_das.words import DIRECTIONS, RECOVERY

FOLDER = "docs/methods"

RESULTS = Path(__file__).parents[2] / "results"

SECTION = "blocks-cdas-at-one-block-and-across-blocks"
"""Of results/README.md, with the comparison of most methods."""

DEFAULTS = yaml.safe_load((RECIPES / "defaults.yaml").read_text(encoding="utf-8"))

_OPTIONS = "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}"


def pages() -> Iterator[tuple[str, str]]:
    """The path of each page and its text."""
    for name, method in METHODS.items():
        yield f"{FOLDER}/{name}.md", "\n\n".join(_parts(method)) + "\n"


def _parts(method: Method) -> Iterator[str]:
    kind = type(method)
    yield f"# {method.name}"
    yield f"::: {kind.__module__}.{kind.__name__}\n{_OPTIONS[:-1]}, show_bases: false}}"
    layer = "" if method.config().layers else " --layer 15"
    command = f"concept-das train --method {method.name} --data rows.parquet{layer} --out runs/NAME"
    yield f"```bash\n{command}\n```"
    own = dict(DEFAULTS.get(method.name, {}))
    source = own.pop("source", None)
    rows = {
        "steers": method.steering,
        "directions": " and ".join(method.directions),
        "learns from": f"the inputs, {', '.join(f'`{name}`' for name in method.columns)}",
        **{f"`{name}`": value for name, value in own.items()},
    }
    first, *others = [f"| {name} | {value} |" for name, value in rows.items()]
    yield "\n".join([first, "| --- | --- |", *others])
    if method.name != "cdas":
        yield "Hyper-parameters that are not named here are those of [CDAS](cdas.md)."
    if source:
        yield f"Source: {source}."
    if measured := _measured(method.name):
        yield measured
    losses = [
        name
        for name in objectives.__all__
        if re.search(rf"\b{name}\b", inspect.getsource(kind))
        and inspect.isfunction(getattr(objectives, name))
    ]
    if losses:
        yield "## Loss"
        for name in losses:
            path = f"{getattr(objectives, name).__module__}.{name}"
            yield f"::: {path}\n    options: {{skip_local_inventory: true}}"
    yield f"## The file\n\n::: {kind.__module__}\n{_OPTIONS}"


def _measured(name: str) -> str:
    """Mean recoveries and side effects, if the method was measured."""
    table = pd.read_csv(RESULTS / "blocks" / "table.csv")
    own = table[(table["method"].str.partition("@")[0] == name) & (table["multiplier"] == 1)]
    if own.empty:
        return ""
    shown = {"method": "method"}
    for direction in DIRECTIONS:
        shown[f"{RECOVERY[direction]}_fair"] = f"recovery, {direction}"
        shown[f"kl_side_effect_{direction}_fair"] = f"KL side effect, {direction}"
    # Over seeds first, as each concept counts once.
    keys = ["method", "concept_id"]
    means = own.groupby(keys, sort=False)[list(shown)[1:]].mean().groupby("method", sort=False)
    means = means.mean().round(3).reset_index()[list(shown)].rename(columns=shown)
    concepts, seeds = own["concept_id"].nunique(), own["seed"].nunique()
    return (
        "## Measured\n\nSmolLM2-135M-Instruct at the [fair multiplier](../evaluate.md#recovery), "
        f"means over {concepts} concepts and {seeds} seed{'s' * (seeds > 1)}; with intervals, and "
        f"beside the others: [results](../../results/README.md#{SECTION}).\n\n{to_markdown(means)}"
    )
