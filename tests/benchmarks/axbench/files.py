"""A folder in the form of AxBench's data: two concepts of text, one of code, three shared rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

CONCEPTS = {0: ("pirates", "text"), 1: ("ships", "text"), 4: ("loops", "code")}


def train_frame(rows: int = 3) -> pd.DataFrame:
    records = [
        record(f"Do {genre} {i}", f"{concept} {i}", concept, genre, concept_id)
        for concept_id, (concept, genre) in CONCEPTS.items()
        for i in range(rows)
    ]
    shared = [
        record(f"Plain {genre} {i}", f"nothing {genre} {i}", "EEEEE", genre, -1)
        for genre in ("text", "code")
        for i in range(rows)
    ]
    return pd.DataFrame([*shared, *records])


def record(text: str, output: str, concept: str, genre: str, concept_id: int) -> dict[str, Any]:
    return {
        "input": text,
        "output": output,
        "output_concept": concept,
        "concept_genre": genre,
        "category": "positive" if concept_id >= 0 else "negative",
        "concept_id": concept_id,
    }


def latent_frame() -> pd.DataFrame:
    records = []
    for concept_id, (concept, genre) in CONCEPTS.items():
        for category in ("positive", "negative"):
            records += [
                {**record(f"Q {i}", f"{category} {i}", concept, genre, concept_id)}
                | {"category": category}
                for i in range(2)
            ]
    hard = record("Q", "ship it", "ship//to send", "text", 1) | {"category": "hard negative"}
    return pd.DataFrame([*records, hard])


def contrastive_frame() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "negative_input": f"Do text {i}",
                "negative_output": f"plain {i}",
                "positive_input": f"Do text {i} with ships",
                "positive_output": f"ships {i}",
                "concept_id": 1,
                "concept": "ships",
                "concept_genre": "text",
            }
            for i in range(2)
        ]
    )


def alpaca(count: int = 30) -> list[dict[str, str]]:
    return [{"instruction": f"Instruction {i}", "output": "o"} for i in range(count)]


def write_folder(folder: Path, **frames: pd.DataFrame | None) -> Path:
    """The frames as `<name>.parquet` beside a training file and alpaca_eval.json; None for none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in {"concept10_2b_l20_train": train_frame(), **frames}.items():
        if frame is not None:
            frame.to_parquet(folder / f"{name}.parquet")
    (folder / "alpaca_eval.json").write_text(json.dumps(alpaca()))
    return folder


TINY = {0: "words about ships", 1: "numbers of all kinds"}
_WORDS = (
    ["mast", "sail", "deck", "anchor", "hull", "rope", "crew", "wave"],
    ["one", "two", "three", "ten", "six"],
)


def write_tiny(folder: Path) -> Path:
    """Two concepts of eight rows each, shared rows, texts for detection, and instructions."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        record(f"Say {i}", f"Aye {_said(_WORDS[number], i)} {i}", concept, "text", number)
        for number, concept in TINY.items()
        for i in range(8)
    ]
    plain = [
        record(f"Tell {i}", f"Well, plain talk {i} here", "EEEEE", "text", -1) for i in range(9)
    ]
    frame, shared = pd.DataFrame([*rows, *plain]), pd.DataFrame(plain)
    frame.drop(columns="category").to_parquet(folder / "tiny_train.parquet")
    negative = [shared.assign(concept_id=n, output_concept=concept) for n, concept in TINY.items()]
    pd.concat([pd.DataFrame(rows), *negative]).to_parquet(folder / "tiny_latent_eval.parquet")
    asked = [{"instruction": f"Ask {i} of {i % 7}"} for i in range(70)]
    (folder / "alpaca_eval.json").write_text(json.dumps(asked))
    return folder


def _said(words: list[str], i: int) -> str:
    return " ".join(words[(i + j) % len(words)] for j in range(3))
