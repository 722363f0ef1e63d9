"""Write the card of a shared vector: what it does, how to use it, and how it was made."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from concept_das.models.packaged import PACKAGED_MODEL
from concept_das.steering.hub import is_hub_id
from concept_das.words import RECOVERY

if TYPE_CHECKING:
    from concept_das.steering.artifact import Artifact
    from concept_das.words import Direction

EVALUATION_FILE, SAMPLES_FILE = "evaluation.csv", "samples.json"

# On the hub the packaged model is its original, before quantisation.
_PACKAGED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

_SHOWN_SAMPLES = 3

_DOES: dict["Direction", str] = {
    "elicit": "towards the concept",
    "suppress": "away from it, where the prompt asks for it",
}


def vector_card(
    vector: "Artifact", repo_id: str, *, run: Path | None = None, license: str | None = None
) -> str:
    """The text of a repository's README.md, with metadata that the hub reads.

    Args:
        run: the folder of the run that made the vector; its `evaluation.csv` gives intervals, its
            `samples.json` (of the demo) answers, and its `config.yaml` the data set, if it is one
            on the hub.
        license: the identifier of a license on the hub, such as `mit`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    measured = list(_measured(vector, run))
    results = []
    for direction, name in RECOVERY.items():
        here = {r["chosen"]: r for r in measured if r["direction"] == direction and name in r}
        row = here.get("fair") or here.get("fixed") or here.get("oracle")
        if row is None:
            continue
        results.append(
            EvalResult(
                task_type="text-generation",
                dataset_type="held-out",
                dataset_name="contrastive quadruples held out from training",
                metric_type=name,
                metric_name=f"recovery at the {row['chosen']} multiplier "
                f"{row['multiplier']:g}, {direction}",
                metric_value=round(row[name], 4),
            )
        )
    base, data = base_model(vector.model.name), _data_set(run)
    repository = repo_id.rpartition("/")[2]
    metadata = ModelCardData(
        base_model=base,
        datasets=[data] if data else None,
        eval_results=results or None,
        library_name="concept-das",
        license=license,
        metrics=[result.metric_type for result in results] or None,
        model_name=repository,
        pipeline_tag="text-generation",
        tags=["concept-das", "steering-vector", vector.method, *vector.directions],
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {vector.concept or repository}",
        _about(vector, base),
        _usage(vector, repo_id),
        _table(measured),
        _samples(run),
        _training(vector),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def base_model(name: str) -> str | None:
    """The hub id of a model by the name that it was loaded by; None for a folder."""
    if name == PACKAGED_MODEL:
        return _PACKAGED_ON_HUB
    return name if is_hub_id(name) else None


def _about(vector: "Artifact", base: str | None) -> str:
    model, name = f"[{base}](https://huggingface.co/{base})", f"`{vector.model.name}`"
    if base != vector.model.name:
        model = f"{name}, made of {model}," if base else name
    lines = [
        f"It steers {model} by the method `{vector.method}` of concept-das, at "
        f"{_blocks(vector)}, in these directions:",
        *(f"- `{direction}`: {_DOES[direction]}" for direction in vector.directions),
    ]
    return "\n".join([lines[0], "", *lines[1:]])


def _blocks(vector: "Artifact") -> str:
    layers = ", ".join(map(str, vector.layers))
    if not vector.layers:
        return "the prompt"
    plural = "s" if len(vector.layers) > 1 else ""
    return f"the output{plural} of block{plural} {layers} of {vector.model.n_layers} (from 0)"


def chat_arguments(vector: "Artifact", variable: str) -> list[str]:
    """Code for the arguments of `ChatFormat.of`, beside the tokenizer, that it was trained under.

    Args:
        variable: the name of the vector in the code.
    """
    chat = vector.chat or {}
    return [
        *([f"system={vector.system!r}"] if vector.system is not None else []),
        *([f"source_token={vector.source_token}"] if vector.source_token != -1 else []),
        *([f'chat_template={variable}.chat["template"]'] if chat.get("template") else []),
        *([f"date={chat['date']!r}"] if chat.get("date") else []),
        *(["system_in_rows=True"] if chat.get("system_in_rows") else []),
        *([f'**{variable}.chat["options"]'] if chat.get("options") else []),
    ]


def _usage(vector: "Artifact", repo_id: str) -> str:
    chat = ", ".join(["loaded.tokenizer", *chat_arguments(vector, "vector")])
    direction = vector.directions[0]
    return f"""## Use

```bash
concept-das steer --vector {repo_id} --direction {direction} --prompt "How do I make tea?" --compare
```

```python
from concept_das import ChatFormat, Steering, generate_responses, load_model, load_vector

loaded = load_model("{vector.model.name}")
vector = load_vector("{repo_id}", loaded)
chat = ChatFormat.of({chat})
answers = generate_responses(
    loaded.model,
    chat,
    ["How do I make tea?"],
    steering=[Steering(vector, "{direction}", multiplier=1.0)],
    max_new_tokens=60,
)
print(answers[0])
```

It is used on these weights only; another model is refused. The files are safetensors and JSON, each
with the hash of the other: nothing is unpickled."""


def _measured(vector: "Artifact", run: Path | None) -> Iterator[dict[str, Any]]:
    """Measures with intervals: `direction`, `multiplier`, and on which rows it was `chosen`."""
    table: list[dict[str, float]] = []
    path = run / EVALUATION_FILE if run is not None else None
    if path is not None and path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            table = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
    for direction in vector.directions:
        name = RECOVERY[direction]
        for row in _metrics(direction, vector.metrics):
            # The table may be of other rows than the vector's own: then it has other recoveries.
            same = [
                found
                for found in table
                if found["multiplier"] == row["multiplier"]
                and name in row
                and abs(found.get(name, float("inf")) - row[name]) < 1e-9
            ]
            yield {**row, **(same[0] if same else {}), "direction": direction}


def _metrics(direction: "Direction", metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The vector's own metrics of a direction, without intervals; what has no value is left out."""
    known = {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and value == value  # noqa: PLR0124 (it may be NaN)
    }
    name, multiplier = RECOVERY[direction], f"multiplier_{direction}"
    others = {key: known[key] for key in _others(direction) if key in known}
    if f"{multiplier}_oracle" in known:
        if f"{name}_at_1" in known:
            yield {"chosen": "fixed", "multiplier": 1.0, name: known[f"{name}_at_1"]}
        if multiplier in known:
            value = {name: known[name]} if name in known else {}
            yield {"chosen": "fair", "multiplier": known[multiplier], **value, **others}
        name_oracle = f"{name}_oracle"
        if name_oracle in known:
            oracle = known[f"{multiplier}_oracle"]
            yield {"chosen": "oracle", "multiplier": oracle, name: known[name_oracle]}
    elif name in known and multiplier in known:  # of earlier releases
        row = {"chosen": "oracle", "multiplier": known[multiplier], name: known[name]}
        yield {**row, **others}
    elif name in known:  # of a comparison or a sweep
        row = {"chosen": "fixed", "multiplier": known.get("multiplier", 1.0), name: known[name]}
        yield {**row, **others}


def _others(direction: "Direction") -> tuple[str, str]:
    return f"heldout_jsd_{direction}", f"kl_side_effect_{direction}"


def _table(measured: Sequence[Mapping[str, Any]]) -> str:
    if not measured:
        return "## Measured\n\nNothing yet: `concept-das evaluate` measures it."
    lines = [
        "| direction | chosen | multiplier | recovery | held-out JSD | KL side effect |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in measured:
        direction = row["direction"]
        cells = [_cell(row, name) for name in (RECOVERY[direction], *_others(direction))]
        start = f"| {direction} | {row['chosen']} | {row['multiplier']:g}"
        lines.append(f"{start} | {' | '.join(cells)} |")
    return "\n".join(
        [
            "## Measured",
            "",
            *lines,
            "",
            "Recovery is measured on held-out rows without a judge: 1 is all of the prompt's "
            "effect, 0 is none, less is harm; a dash where the prompt has no clear effect. "
            "Held-out JSD: between the steered model and the model under the other prompt. KL side "
            "effect: KL(unsteered || steered) on unrelated text. Both in nats per token. In "
            "brackets: 95% intervals over rows. The multiplier is fixed at 1, fair (of each half "
            "of the rows the one that is best on the other half; their mean is shown), or oracle "
            "(the best of those tried, on the same rows that it is reported on).",
        ]
    )


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return "-"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{row[name]:.3f}{interval}"


def _samples(run: Path | None) -> str:
    path = run / SAMPLES_FILE if run is not None else None
    if path is None or not path.exists():
        return ""
    parts = ["## Samples", "Held-out instructions, greedy decoding."]
    for sample in json.loads(path.read_text(encoding="utf-8"))[:_SHOWN_SAMPLES]:
        rows = [f"| {label} | {_flat(text)} |" for label, text in sample["answers"]]
        title = f"| | {_flat(sample['instruction'])} |"
        parts.append("\n".join([title, "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def _flat(text: str) -> str:
    """Text for a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _data_set(run: Path | None) -> str | None:
    """The hub id of the data of a run, if it is one."""
    path = run / "config.yaml" if run is not None else None
    if path is None or not path.exists():
        return None
    options = yaml.safe_load(path.read_text(encoding="utf-8"))
    return base_model(str(options.get("data") or "")) if isinstance(options, dict) else None


def _training(vector: "Artifact") -> str:
    rows = {
        **{name: value for name, value in vector.recipe.items() if value not in (None, [], "")},
        "weights of the model": vector.model.fingerprint,
        "revision of the model": vector.model.revision,
        "rows (SHA-256)": vector.data_hash,
        **vector.versions,
    }
    lines = [f"| {name.replace('_', ' ')} | {_flat(str(v))} |" for name, v in rows.items() if v]
    return "\n".join(["## Training", "", "| | |", "| --- | --- |", *lines])
