"""Part of the record on the packaged SmolLM2-135M-Instruct, at block 15."""

import json
from pathlib import Path

from tests.golden.files import write_json, write_text
from tests.golden.running import concept_das, succeed
from tests.golden.tiny_world import write_rows
from tests.golden.training import of_run

ROWS = Path(__file__).parent / "pirate.jsonl"
"""Written once by `concept-das data make --concept "Talk like a pirate" --count 12`."""

_ON = ("--model=smollm2-135m", "--device=cpu", "--dtype=float32")
_ASKED = ("How do I boil an egg?", "Who was Isaac Newton?", "Describe a winter morning.")
_METHODS: dict[str, tuple[str, ...]] = {
    "cdas": (),
    "cdas-pyvene": ("--engine=pyvene", "--epochs=1"),
    "reps": ("--method=reps",),
    "loreft": ("--method=loreft", "--layers=[10, 20]", "--rank=1"),
}


def record_smollm2(out: Path, work: Path) -> None:
    """Training, evaluation and greedy answers; and the making of rows."""
    asked = write_rows(work / "asked.jsonl", [{"instruction": text} for text in _ASKED])
    for name, more in _METHODS.items():
        run = work / name
        options = ("train", *_ON, f"--data={ROWS}", f"--out={run}", "--layer=15", "--heldout=4")
        few = ("--epochs=2", "--batch_size=4", "--max_response_tokens=16", "--wandb=off")
        succeed(concept_das(*options, *few, *more))
        write_json(out / f"{name}.json", of_run(run, evaluated=name == "cdas"))
    vector = f"--vector={work / 'cdas' / 'vector'}"
    for direction in ("elicit", "suppress"):
        answers = work / f"{direction}.jsonl"
        words = ("--max-new-tokens=24", "--multiplier=1.5", f"--direction={direction}")
        steer = ("steer", *_ON, vector, f"--file={asked}", "--compare", f"--out={answers}")
        succeed(concept_das(*steer, *words))
        lines = answers.read_text(encoding="utf-8").splitlines()
        write_json(out / f"answers-{direction}.json", [json.loads(line) for line in lines])
    made = work / "made.jsonl"
    make = ("data", "make", *_ON, "--concept=Talk like a pirate", "--count=3")
    succeed(concept_das(*make, "--max-new-tokens=16", f"--out={made}"))
    write_text(out / "data-make.txt", made.read_text(encoding="utf-8"))
