"""Parts of the record about what the recorded code has saved: vectors, and a run broken off.

`saved/` holds the folders themselves, written once by `python -m tests.golden.saved`. Later code
has to read them, steer by them as they did, and finish the run.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import concept_das as library
from tests.golden.files import write_json
from tests.golden.running import concept_das, succeed
from tests.golden.tiny_world import PROMPTS, golden_model, rows, write_model, write_rows
from tests.golden.training import described, steered_logits, training_options
from tests.tiny import tiny_tokenizer

SAVED = Path(__file__).parent / "saved"

KINDS: dict[str, tuple[str, ...]] = {
    "cdas": ("--method=cdas",),
    "cdas-rank-2": ("--method=cdas", "--rank=2"),
    "diffmean": ("--method=diffmean",),
    "reps": ("--method=reps",),
    "loreft": ("--method=loreft", "--layers=[1, 2]", "--rank=2"),
    "cdas_loreft": ("--method=cdas_loreft", "--layers=[1, 2]", "--rank=2"),
    "lora": ("--method=lora", "--layers=[1, 2]", "--rank=2"),
    "prompt": ("--method=prompt",),
}

_BROKEN = ("cdas", "loreft", "lora")
"""Methods of which a run is broken off after its second epoch of four."""


class _BreakOff:
    """A tracker that ends a run at the first step of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Stop at the step."""
        if step is not None and step >= self.step:
            raise KeyboardInterrupt

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Nothing to do."""

    def finish(self) -> None:
        """Nothing to do."""


def record_saved(out: Path, work: Path) -> None:
    """Describe the saved vectors, and the logits that they steer to."""
    loaded = library.LoadedModel(golden_model(), tiny_tokenizer(), "tiny")
    for name in KINDS:
        vector = library.load_vector(SAVED / name, loaded)
        again = vector.save(work / name)
        write_json(
            out / f"{name}.json",
            {
                "method": vector.method,
                "layers": vector.layers,
                "rank": vector.rank,
                "parameters": vector.parameters,
                "directions": vector.directions,
                "is text": vector.is_text,
                "saved again": described(again) == described(SAVED / name),
                "vector": described(again),
                "tensors": load_file(again / "vector.safetensors"),
                "logits": steered_logits(loaded, vector),
                "answers": _answers(loaded, vector),
            },
        )


def _answers(loaded: library.LoadedModel, vector: library.Artifact) -> list[str]:
    chat = library.ChatFormat.of(loaded.tokenizer)
    prompts = [chat.prompt(text) for text in PROMPTS]
    steering = library.Steering(vector, multiplier=1.5)
    return library.generate_responses(
        loaded.model, chat, prompts, steering=steering, max_new_tokens=8
    )


def record_resumed(out: Path, work: Path) -> None:
    """Finish the runs that were broken off, and describe them."""
    for method in _BROKEN:
        checkpoint = work / method
        shutil.copytree(SAVED / f"broken-off-{method}", checkpoint)
        trained = _train(method, checkpoint)
        trained.vector.save(work / f"{method}-vector")
        write_json(
            out / f"{method}.json",
            {
                "history": trained.history,
                "vector": described(work / f"{method}-vector"),
                "tensors": load_file(work / f"{method}-vector" / "vector.safetensors"),
            },
        )


def _train(method: str, checkpoint: Path | None, stop: int | None = None) -> Any:
    """Four epochs of three steps, on seven rows."""
    loaded = library.LoadedModel(golden_model(), tiny_tokenizer(), "tiny")
    records = [library.Quadruple(**row) for row in rows()]
    several = {} if method == "cdas" else {"layers": (1, 2), "rank": 2}
    config = library.find_method(method).config(
        epochs=4, batch_size=3, max_response_tokens=6, **several
    )
    return library.train_vector(
        loaded,
        library.ChatFormat.of(loaded.tokenizer),
        records[:7],
        records[7:],
        1,
        config,
        checkpoint=checkpoint,
        tracker=None if stop is None else _BreakOff(stop),
    )


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> None:
    """Write `saved/` anew: only with the code whose files are to be read for ever."""
    shutil.rmtree(SAVED, ignore_errors=True)
    work = SAVED / "work"
    work.mkdir(parents=True)
    write_model(work / "tiny")
    write_rows(work / "rows.jsonl", rows())
    with _inside(work):  # the model's name is the path as it is given
        for name, more in KINDS.items():
            options = training_options(Path("tiny"), Path("rows.jsonl"), Path(name))
            succeed(concept_das(*options, *more))
            shutil.copytree(work / name / "vector", SAVED / name)
    shutil.rmtree(work)
    for method in _BROKEN:
        try:
            _train(method, SAVED / f"broken-off-{method}", stop=7)
        except KeyboardInterrupt:
            print(f"{method} was broken off")


if __name__ == "__main__":
    main()
