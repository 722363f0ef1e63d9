"""A page for each of the paper's tables, from `benchmarks/paper/tables.yaml`."""

import re
import shlex
import textwrap
from collections.abc import Iterator

import pandas as pd

from benchmarks.axbench.presets import Preset
from benchmarks.axbench.published import published
from benchmarks.paper.beside import published_of
from benchmarks.paper.entries import Entry, read_entries, shown
from concept_das.reports.tables import to_markdown

FOLDER = "docs/paper"


def pages() -> Iterator[tuple[str, str]]:
    """The path of each page and its text."""
    for entry in read_entries().values():
        yield f"{FOLDER}/{entry.name}.md", "\n\n".join(_parts(entry)) + "\n"


def _parts(entry: Entry) -> Iterator[str]:
    yield f"---\ntitle: {entry.name}\n---\n\n# {entry.title}"
    if entry.note:
        yield entry.note
    given = "".join(f" {flag} {flag.lstrip('-').upper()}" for flag in entry.asks)
    command = f"benchmarks.paper {entry.name}"
    full = _lines(f"{command} --out runs/{entry.name}{given}")
    yield f"```bash\n{_lines(command)} --dry-run\n{full}\n```"
    if entry.asks:
        yield "\n".join(f"- `{flag}`: {what}" for flag, what in entry.asks.items())
    yield "The second runs, each into a folder of its own:"
    yield "\n".join(["```bash", *map(_lines, entry.runs.values()), "```"])
    yield "## What it takes"
    yield "\n".join(f"- {line}" for line in entry.needs())
    yield "## What was measured here"
    linked = (
        re.sub(r"results/(\S+)", r"[results/\1](../../results/\1)", line) for line in entry.state()
    )
    yield "\n".join(f"- {line}" for line in linked)
    table = _published(entry)
    if not table.empty:
        yield "## Published\n\nThe numbers that `table.md` of the run puts beside its own."
        yield to_markdown(table)
        yield f"Source: {'; '.join(table.attrs['sources'])}."


def _lines(command: str) -> str:
    """A command as it is typed, in lines that fit."""
    text = shown(command).strip()
    lines = textwrap.wrap(text, 84, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines)


def _published(entry: Entry) -> pd.DataFrame:
    """Published numbers of the methods that the runs name; empty if there are none."""
    parts = []
    for run, preset in entry.presets():
        words = shlex.split(entry.runs[run])
        if isinstance(preset, Preset):
            if preset.cell is None:
                continue
            table = published(preset.cell).replace({"factor": {"NA": ""}})
            long = table.rename(columns={"score": "value"}).assign(what=run)
            keys = ["method", "factor"]
        else:
            swept = "--layers" in words
            keys = ["method", "layer"] if swept else ["run", "method"]
            table = published_of(preset, swept).assign(run=run)
            long = table.melt([*keys, "source"], entry.columns, "what")
            long = long.assign(what=long["what"].str.replace("_", " "))
        if "--methods" in words:
            named = words[words.index("--methods") + 1].split(",")
            long = long[long["method"].isin(named)]
        parts.append(long.dropna(subset="value"))
    if not parts:
        return pd.DataFrame()
    whole = pd.concat(parts)
    wide = whole.pivot_table(index=keys, columns="what", values="value", sort=False).reset_index()
    wide.attrs["sources"] = list(dict.fromkeys(whole["source"]))
    return wide
