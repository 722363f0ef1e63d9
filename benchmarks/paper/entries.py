"""The list of the paper's tables (`tables.yaml`), and what each takes."""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks.axbench.data import CONCEPT_COUNT
from benchmarks.axbench.estimate import requests
from benchmarks.axbench.presets import PRESETS, Preset
from benchmarks.backdoor.presets import PRESETS as BACKDOOR
from benchmarks.judges.client import Endpoint
from benchmarks.judges.prices import PRICES
from benchmarks.models import known_models
from benchmarks.refusal.presets import PRESETS as REFUSAL
from benchmarks.safety.settings import SafetyPreset
from concept_das.words import DIRECTIONS

RESULTS = Path(__file__).parents[2] / "results"

_WIDTH = 110

_PRESETS: Mapping[str, Mapping[str, Preset | SafetyPreset]] = {
    "benchmarks.axbench": PRESETS,
    "benchmarks.refusal": REFUSAL,
    "benchmarks.backdoor": BACKDOOR,
}


@dataclass(frozen=True)
class Entry:
    """A table or figure.

    Attributes:
        name: for the command line.
        title: the table in words.
        runs: commands by the folder that each writes, without that folder.
        asks: flags that the reader has to give, and what they are.
        columns: names of measured columns for each published one.
        note: what to know about it.
        results: tables in `results/`, and the model that each is of.
    """

    name: str
    title: str
    runs: Mapping[str, str]
    asks: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    note: str = ""
    results: Mapping[str, str] = field(default_factory=dict)

    def presets(self) -> Iterator[tuple[str, Preset | SafetyPreset]]:
        """The preset of each run, with the run's methods alone where it names some."""
        for run, command in self.runs.items():
            module, *words = shlex.split(command)
            if module not in _PRESETS:
                continue
            preset = _PRESETS[module][words[words.index("--preset") + 1]]
            if isinstance(preset, Preset) and "--methods" in words:
                preset = preset.only(words[words.index("--methods") + 1].split(","))
            yield run, preset

    def needs(self) -> list[str]:
        """Models with the size of their weights, the judge's price, and hours, one line each."""
        lines = []
        for model in dict.fromkeys(preset.model for _, preset in self.presets()):
            if model is None:
                lines.append("a model of your own")
                continue
            count = known_models()["parameters"][model]
            four = any(
                preset.recipe.loading.get("load_in_4bit", False)
                for _, preset in self.presets()
                if preset.model == model
            )
            size = count * (0.5 if four else 2) / 1e9
            kind = "4 bits" if four else "bfloat16"
            lines.append(f"{model}: {count / 1e9:.1f} billion weights, {size:.0f} GB in {kind}")
        if lines:
            lines.append("GPU memory beside the weights, and hours: not measured on these models")
        if cost := self.judge_cost():
            lines.append(
                f"judge: about ${cost:,.0f} at {Endpoint.model}'s list price for all "
                f"{CONCEPT_COUNT} concepts, in proportion for fewer"
            )
            lines.append(
                "the judge's questions: a checkout of https://github.com/stanfordnlp/axbench, here "
                "or by --judge-questions"
            )
        return lines or ["nothing"]

    def judge_cost(self) -> float:
        """Dollars for the ratings of AxBench's runs, towards all concepts; see the dry run."""
        price = PRICES[Endpoint.model]
        asked = [
            requests(preset, CONCEPT_COUNT, "model", given=True, directions=DIRECTIONS[:1])
            for _, preset in self.presets()
            if isinstance(preset, Preset)
        ]
        return sum(price.of(tokens_in, tokens_out) for _, tokens_in, tokens_out in asked)

    def state(self) -> list[str]:
        """Tables in results/ that the same commands made, with their models, one line each."""
        there = {path: of for path, of in self.results.items() if (RESULTS / path).exists()}
        lines = [f"measured on {of}: results/{path}" for path, of in there.items()]
        if not any(True for _ in self.presets()):
            return ["printed from this code"]
        return [*lines, "not measured on the paper's models"]

    def text(self) -> str:
        """The entry as the list shows it."""
        given = "".join(f" {flag} {flag.lstrip('-').upper()}" for flag in self.asks)
        parts: list[tuple[str, Sequence[str]]] = [
            ("run", [f"python -m benchmarks.paper {self.name} --out OUT{given}"]),
            ("which is", [shown(command) for command in self.runs.values()]),
            ("give", [f"{flag}: {what}" for flag, what in self.asks.items()]),
            ("needs", self.needs()),
            ("state", self.state()),
            ("note", textwrap.wrap(self.note, _WIDTH)),
        ]
        rows = [
            f"  {label if number == 0 else '':<9} {line}"
            for label, lines in parts
            for number, line in enumerate(lines)
        ]
        return "\n".join([f"{self.name}: {self.title}", *rows])


def shown(command: str) -> str:
    """A run as it is typed."""
    return command if command.startswith("concept-das") else f"python -m {command}"


def read_entries() -> dict[str, Entry]:
    """Every table, by its name."""
    content = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text("utf-8"))
    return {name: Entry(name, **entry) for name, entry in content.items()}
