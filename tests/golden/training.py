"""Parts of the record that train on tiny models: every method, both engines, several concepts."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

import concept_das as library
from tests.golden.files import write_json
from tests.golden.running import concept_das, succeed
from tests.golden.tiny_world import PROMPTS, rows, write_model, write_rows

AT_SEVERAL = ("loreft", "cdas_loreft", "lora")
"""Methods that act at several blocks; the others act at block 1."""

# Of other code, or of this machine.
_VOLATILE = ("versions", "tensors_sha256")

# Beside every method with its own settings.
_VARIANTS: dict[str, tuple[str, ...]] = {
    "cdas-pyvene": ("--engine=pyvene",),
    "das-pyvene": ("--method=das", "--engine=pyvene"),
    "reps-pyvene": ("--method=reps", "--engine=pyvene"),
    "cdas-rank-2": ("--rank=2", "--seed=7", "--gradient_clip=0.1"),
    "cdas-token-patience": ("--reduction=token", "--patience=1", "--epochs=4"),
    "cdas-small-batches": ("--batch_tokens=64", "--cache_gb=0.000001", "--weight-decay=0.1"),
    "cdas-system": ("--system=Be brief.", "--source-token=-2"),
}
_ARCHITECTURES = ("gemma2", "gpt2", "qwen2", "phi3")


def training_options(model: Path, data: Path, out: Path, method: str = "cdas") -> tuple[str, ...]:
    """`concept-das train` on a tiny model, of one or two seconds."""
    several = ("--layers=[1, 2]",) if method in AT_SEVERAL else ()
    return (
        *("train", f"--model={model}", "--device=cpu", f"--data={data}", f"--out={out}"),
        *(f"--method={method}", "--layer=1", "--heldout=3", "--epochs=2", "--batch_size=4"),
        *("--max_response_tokens=6", "--wandb=off", *several),
    )


def record_methods(out: Path, work: Path) -> None:
    """For each method: what is saved, its history, its evaluation, and steered answers."""
    model, data = write_model(work / "model"), write_rows(work / "rows.jsonl", rows())
    for method in library.METHODS:
        run = work / method
        succeed(concept_das(*training_options(model, data, run, method)))
        write_json(out / f"{method}.json", of_run(run, evaluated=True, answered=True))


def record_variants(out: Path, work: Path) -> None:
    """The engines, other settings, other architectures, and two concepts at once."""
    model, data = write_model(work / "model"), write_rows(work / "rows.jsonl", rows())
    for name, more in _VARIANTS.items():
        succeed(concept_das(*training_options(model, data, work / name), *more))
        write_json(out / f"{name}.json", of_run(work / name))
    for name in _ARCHITECTURES:
        other = write_model(work / f"{name}-model", name)
        succeed(concept_das(*training_options(other, data, work / name)))
        write_json(out / f"cdas-{name}.json", of_run(work / name))
    several = write_rows(work / "several.jsonl", [*rows(), *rows(9, "Captain")[2:]])
    for method in ("cdas", "lora"):
        run = work / f"several-{method}"
        options = training_options(model, several, run, method)
        succeed(concept_das(*options, "--together=2"))
        for number in (3, 9):
            found = of_run(run / f"concept-{number}")
            write_json(out / f"several-{method}-{number}.json", found)


def described(vector: Path) -> dict[str, Any]:
    """A saved vector's description without what changes from machine to machine."""
    return stable(json.loads((vector / "vector.json").read_text(encoding="utf-8")))


def stable(description: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a description."""
    model = {**description["model"], "name": Path(description["model"]["name"]).name}
    kept = {name: value for name, value in description.items() if name not in _VOLATILE}
    return {**kept, "model": model}


def of_run(run: Path, *, evaluated: bool = False, answered: bool = False) -> dict[str, Any]:
    """Record a training's folder, and what evaluating and steering then give."""
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    found = {
        "files": sorted(path.relative_to(run).as_posix() for path in run.rglob("*")),
        "history": [_timeless(json.loads(line)) for line in lines if line],
        "trained on": pd.read_parquet(run / "train.parquet")["negative_input"].tolist(),
    }
    if evaluated:
        words = ("evaluate", f"--vector={run / 'vector'}", "--multipliers=[0.5, 1]")
        printed = succeed(concept_das(*words, "--device=cpu")).out
        found["evaluation printed"] = printed.splitlines()[0].split()
        found["evaluation"] = pd.read_csv(run / "evaluation.csv").to_dict("list")
        kept = pd.read_parquet(run / "rows.parquet")
        found["evaluated rows"] = kept.to_dict("list")
    found["vector"] = described(run / "vector")
    found["tensors"] = load_file(run / "vector" / "vector.safetensors")
    if answered:
        found["answers"] = dict(_answers(run / "vector"))
    return found


def _timeless(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if "second" not in name}


def _answers(folder: Path) -> Iterator[tuple[str, Any]]:
    """Greedy and sampled answers at several strengths, in each direction that can be steered."""
    name = json.loads((folder / "vector.json").read_text(encoding="utf-8"))["model"]["name"]
    loaded = library.load_model(name, device="cpu")
    vector = library.load_vector(folder, loaded)
    chat = library.ChatFormat.of(loaded.tokenizer)
    prompts = [chat.prompt(text) for text in PROMPTS]
    for direction in vector.directions:
        for strength, temperature in ((1.0, 0.0), (2.0, 0.0), (1.0, 1.2)):
            steering = library.Steering(vector, direction, strength)
            yield (
                f"{direction} {strength:g} at {temperature:g}",
                library.generate_responses(
                    loaded.model,
                    chat,
                    prompts,
                    steering=steering,
                    max_new_tokens=8,
                    temperature=temperature,
                    seed=3,
                ),
            )
        for positions in () if vector.is_text else ("prompt", "generated"):
            yield (
                f"{direction} {positions}",
                library.generate_responses(
                    loaded.model,
                    chat,
                    prompts,
                    steering=library.Steering(vector, direction),
                    positions=positions,
                    max_new_tokens=8,
                ),
            )


def steered_logits(
    loaded: Any, vector: library.Artifact, text: str = PROMPTS[2]
) -> dict[str, torch.Tensor]:
    """The next-token logits after a prompt, untouched and steered, in each direction."""
    chat = library.ChatFormat.of(loaded.tokenizer, system=vector.system)
    found = {}
    for direction in (None, *vector.directions):
        prompt = chat.prompt(text)
        steering = None if direction is None else library.Steering(vector, direction, 1.5)
        if steering is not None and vector.is_text:
            prompt, steering = steering.prompt(prompt), None
        ids = torch.tensor([list(prompt.ids)])
        lengths = [len(prompt.ids)]
        with torch.no_grad():
            if steering is None:
                logits = loaded.model(ids).logits
            else:
                with library.steer(loaded.model, steering, prompt_lengths=lengths):
                    logits = loaded.model(ids).logits
        found[direction or "untouched"] = logits[0, -1]
    return found
