"""Parts of the record: comparison and sweep, data and answers by the commands, exported files."""

import hashlib
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import concept_das as library
from concept_das import exports
from tests.golden.files import write_json, write_markdown, write_table, write_text
from tests.golden.running import concept_das, succeed
from tests.golden.tiny_world import PROMPTS, golden_model, rows, write_model, write_rows
from tests.golden.training import stable, training_options

_NO_VALUES = ("README.md",)


def record_tables(out: Path, work: Path) -> None:
    """Record the tables and summaries that `compare` and `sweep` leave for a reader."""
    model, data = write_model(work / "model"), write_rows(work / "rows.jsonl", rows())
    other = write_rows(work / "other.jsonl", rows(4, "Captain"))
    places = {str(work): "WORK"}
    common = ("--device=cpu", f"--model={model}", "--wandb=off", "--heldout=3", "--unrelated=2")
    changes = {
        "all": {"epochs": 1, "max_response_tokens": 6, "batch_size": 4},
        "loreft": {"layers": [1, 2], "rank": 2},
    }
    compared = work / "compared"
    succeed(
        concept_das(
            *("compare", *common, f"--data={data},{other}", "--layer=1", f"--out={compared}"),
            *("--methods=cdas,das,diffmean,lang,reps,loreft,prompt", "--seeds=[1, 2]"),
            *(f"--changes={json.dumps(changes)}", "--rows=5", "--multipliers=[0.5, 1]"),
            *("--generations=1", "--new_tokens=4"),
        )
    )
    write_table(out / "compare.csv", compared / "table.csv", places)
    write_markdown(out / "compare.md", (compared / "summary.md").read_text("utf-8"), places)
    write_json(out / "compare-files.json", _names(compared))
    swept = work / "swept"
    succeed(
        concept_das(
            *("sweep", *common, f"--data={data}", "--layers=[1, -1]", "--ranks=[1, 2]"),
            *("--seeds=[7, 8]", "--multipliers=[0.5, 1]", "--epochs=2", "--batch-size=4"),
            *("--max-response-tokens=6", f"--out={swept}"),
        )
    )
    write_table(out / "sweep.csv", swept / "table.csv", places)
    write_markdown(out / "sweep.md", (swept / "summary.md").read_text("utf-8"), places)
    write_json(out / "sweep-files.json", _names(swept))


def _names(folder: Path) -> list[str]:
    """The files of a run, but for those of cells like the first one."""
    return sorted(path.name for path in folder.iterdir())


def record_answers(out: Path, work: Path) -> None:
    """Record what the commands around data and steering print and write."""
    model, data = write_model(work / "model"), write_rows(work / "rows.jsonl", rows())
    places = {str(work): "WORK"}
    on = (f"--model={model}", "--device=cpu")
    made = work / "made.jsonl"
    (work / "in.txt").write_text("Name a fruit\nHi\n\nSing\nHi\n", encoding="utf-8")
    make = ("data", "make", *on, "--max-new-tokens=12", "--concept=Talk like a pirate")
    succeed(concept_das(*make, f"--instructions={work / 'in.txt'}", f"--out={made}"))
    write_text(out / "data-make-own.txt", made.read_text("utf-8"))
    sampled = ("--count=3", "--genre=math", "--temperature=1.3", "--seed=5", "--concept_id=2")
    succeed(concept_das(*make, *sampled, f"--out={work / 'shipped.jsonl'}"))
    write_text(out / "data-make-shipped.txt", (work / "shipped.jsonl").read_text("utf-8"))
    frame = pd.DataFrame({"input": ["Hi", "Sing"], "output": ["Ahoy", "Yo-ho-ho"]})
    source = work / "axbench.parquet"
    frame.assign(output_concept="pirates", concept_genre="text", concept_id=3).to_parquet(source)
    complete = ("data", "axbench", *on, f"--axbench={source}", "--concept-id=3")
    succeed(concept_das(*complete, "--max-new-tokens=12", f"--out={work / 'completed.jsonl'}"))
    write_text(out / "data-axbench.txt", (work / "completed.jsonl").read_text("utf-8"))
    checked = succeed(
        concept_das("data", "check", *on, f"--data={data}", "--max_response_tokens=9")
    )
    write_text(out / "data-check.txt", checked.out, places)
    for direction in ("elicit", "suppress"):
        words = ("inspect", *on, f"--data={data}", "--row=2", f"--direction={direction}")
        printed = succeed(concept_das(*words)).out
        write_text(out / f"inspect-{direction}.txt", printed, places)
    succeed(concept_das(*training_options(model, data, work / "run")))
    steer = ("steer", f"--vector={work / 'run/vector'}", "--device=cpu", "--max-new-tokens=12")
    asked = write_rows(work / "asked.jsonl", [{"instruction": text} for text in PROMPTS])
    for name, more in {
        "greedy": (),
        "sampled": ("--temperature=1.2", "--seed=3", "--multiplier=3", "--batch-tokens=64"),
        "suppress": ("--direction=suppress", "--rule=interpolate", "--multiplier=2"),
        "generated": ("--positions=generated", "--multiplier=4"),
    }.items():
        answers = work / f"{name}.jsonl"
        succeed(concept_das(*steer, f"--file={asked}", "--compare", f"--out={answers}", *more))
        write_text(out / f"steer-{name}.txt", answers.read_text("utf-8"))
    printed = succeed(concept_das(*steer, "--prompt=Hi there", "--compare")).out
    write_text(out / "steer-printed.txt", printed)


def record_exports(out: Path, work: Path) -> None:
    """Record the tensors that each export writes, and the settings beside them."""
    model, data = write_model(work / "model"), write_rows(work / "rows.jsonl", rows())
    for method in ("cdas", "reps", "diffmean", "lora", "loreft"):
        succeed(concept_das(*training_options(model, data, work / method, method)))
    two = work / "cdas-2"
    succeed(concept_das(*training_options(model, data, two), "--rank=2"))
    for name, form, suffix, more in (
        ("cdas", "pyvene", "", ()),
        ("cdas-2", "pyvene", "", ("--direction=suppress", "--rule=interpolate", "--multiplier=2")),
        ("reps", "pyvene", "", ("--multiplier=0.5",)),
        ("cdas", "lm-eval", ".pt", ("--multiplier=2",)),
        ("diffmean", "lm-eval", ".pt", ("--direction=suppress",)),
        ("diffmean", "gguf", ".gguf", ("--multiplier=1.5",)),
        ("reps", "gguf", ".gguf", ("--direction=suppress",)),
        ("lora", "peft", "", ()),
    ):
        target = work / f"{name}-{form}{suffix}"
        words = ("export", f"--vector={work / name / 'vector'}", f"--format={form}")
        succeed(concept_das(*words, f"--out={target}", "--device=cpu", *more))
        write_json(out / f"{name}-{form}.json", _exported(target))
    loaded = library.load_model(str(model), device="cpu")
    edit = library.load_vector(work / "loreft" / "vector", loaded)
    target = work / "loreft-pyreft"
    with redirect_stdout(io.StringIO()):
        exports.to_pyreft(edit, loaded.model).save(str(target))
    write_json(out / "loreft-pyreft.json", _exported(target))
    tiny = golden_model()
    back = {
        "gguf": exports.from_gguf(work / "diffmean-gguf.gguf", tiny),
        "pyvene": exports.from_pyvene(work / "cdas-pyvene", tiny),
        "pyreft": exports.from_pyreft(target, tiny),
    }
    for name, vector in back.items():
        found = {"vector": stable(vector.describe()), "tensors": vector.tensors()}
        write_json(out / f"from-{name}.json", found)


def _exported(target: Path) -> dict[str, Any]:
    files = sorted(path for path in target.rglob("*") if path.is_file())
    if target.is_file():
        return {"file": _content(target)}
    return {path.relative_to(target).as_posix(): _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.name in _NO_VALUES:
        return "not kept"
    if path.suffix == ".json":
        return _without_versions(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix in (".pt", ".bin"):
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".gguf":
        return _gguf(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _without_versions(value: Any) -> Any:
    """A JSON object without the versions of other libraries, and peft's without its own fields."""
    if not isinstance(value, dict):
        return value
    kept = (
        *("r", "lora_alpha", "target_modules", "layers_to_transform", "peft_type", "bias"),
        *("fan_in_fan_out", "lora_dropout", "use_rslora", "base_model_name_or_path"),
    )
    if "peft_type" in value:
        named = {name: value.get(name) for name in kept}
        named["target_modules"] = sorted(named["target_modules"])  # a set, in no order
        return {**named, "base_model_name_or_path": Path(str(named.pop(kept[-1]))).name}
    return {name: one for name, one in value.items() if "version" not in name}


def _gguf(path: Path) -> dict[str, Any]:
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {
        name: [np.asarray(part).tolist() for part in field.parts][-1]
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    return {"fields": fields, "tensors": tensors}
