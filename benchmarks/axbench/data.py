"""The texts of an AxBench run: concepts, instructions, and texts for detection.

Training rows are AxBench's: 72 per concept with the concept in the output, and 72 per genre
without any, shared by all concepts and marked by the id -1. Where they are found, and how the
files are laid out, is in `benchmarks.axbench.sources`.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from benchmarks.axbench.published import Cell
from benchmarks.axbench.sources import find_sources
from concept_das.data.axbench_file import AXBENCH_COLUMNS, AxBenchConcept, axbench_concept
from concept_das.data.files import by_concept, write_table
from concept_das.data.frames import read_frame
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import (
    check_columns,
    check_texts,
    quadruples_from_frame,
    read_quadruples,
    to_frame,
)
from concept_das.errors import InputError
from concept_das.runs.files import write_atomically

CONCEPT_COUNT, ALPACA_EVAL_COUNT = 500, 805
"""Concepts of a cell of Concept500, and instructions of AlpacaEval."""

NO_CONCEPT = -1
"""Concept id of the shared rows."""

HARD = "hard negative"

_CATEGORIES = ("positive", "negative", HARD)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AxBenchData:
    """The data that a run reads, checked.

    Attributes:
        name: of the training file, for messages.
        concept_ids: in rising order.
        sha256: of every file that was read, by its name; keep it beside the results.
    """

    name: str
    concept_ids: tuple[int, ...]
    sha256: dict[str, str]
    _train: pd.DataFrame = field(repr=False)
    _instructions: pd.DataFrame = field(repr=False)
    _latent: pd.DataFrame | None = field(repr=False)
    _quadruples: dict[int, list[Quadruple]] | None = field(repr=False)

    @property
    def instruction_count(self) -> int:
        """Instructions that those of a concept are drawn from."""
        return len(self._instructions)

    @property
    def has_contrastive(self) -> bool:
        """True if the source has quadruples."""
        return self._quadruples is not None

    def concept(self, concept_id: int) -> AxBenchConcept:
        """A concept's instructions and the responses that show it.

        Raises:
            InputError: if there is no such concept.
        """
        return axbench_concept(self._train, concept_id, self.name)

    def contrastive(self, concept_id: int) -> list[Quadruple] | None:
        """A concept's quadruples, or None if there are none and they have to be made."""
        return None if self._quadruples is None else self._quadruples.get(concept_id)

    def instructions(self, concept_id: int, count: int) -> list[str]:
        """The instructions that a concept is steered on, drawn from AlpacaEval.

        AxBench's draw (`SteeringDatasetFactory.create_eval_df` in its `axbench/utils/dataset.py`):
        pandas' `sample` with the concept's id as random state. Order matters: AxBench chooses
        factors on the first half and reports on the second.

        Raises:
            InputError: if there are not so many instructions.
        """
        if not 1 <= count <= len(self._instructions):
            raise InputError(
                f"{count} instructions per concept were asked for; there are "
                f"{len(self._instructions)} to draw from"
            )
        drawn = self._instructions.sample(count, random_state=concept_id)
        return drawn["instruction"].tolist()

    def detection(self, concept_id: int) -> pd.DataFrame | None:
        """Held-out texts with the concept and without, for the AUROC of detecting it.

        In AxBench a concept has 36 positive texts, 36 negative ones of mixed genres, and up to 9
        hard negatives, which use a word of the concept in another sense. Its AUROC
        (`AUCROCEvaluator` in `axbench/evaluators/aucroc.py`) is over the first two: it maps labels
        by the names "hard negative seen" and "unseen", which the files do not use, and drops
        what it cannot map. So hard negatives are left out here too.

        Returns:
            Columns label (positive or negative), instruction and response; None if the source
            has no such texts.

        Raises:
            InputError: if the concept has no such texts where others have.
        """
        if self._latent is None:
            return None
        rows = self._latent[self._latent["concept_id"] == concept_id]
        rows = rows[rows["category"] != HARD]
        if rows.empty:
            raise InputError(f"the texts for detection have none of concept {concept_id}")
        named = {"category": "label", "input": "instruction", "output": "response"}
        return rows[[*named]].rename(columns=named).reset_index(drop=True)

    def negatives(self, concept_id: int) -> list[str]:
        """The shared outputs without any concept, of the concept's genre.

        Raises:
            InputError: if there is no such concept, or no such output.
        """
        genre = self.concept(concept_id).genre
        shared = self._train[self._train["concept_id"] == NO_CONCEPT]
        outputs = shared.loc[shared["concept_genre"] == genre, "output"].tolist()
        if not outputs:
            raise InputError(
                f"{self.name} has no rows without a concept (concept_id {NO_CONCEPT}) of genre "
                f"{genre!r}, which concept {concept_id} is of"
            )
        return outputs


def open_data(source: str, cell: Cell | None = None, usual: Cell | None = None) -> AxBenchData:
    """Read and check all texts of a run.

    Args:
        source: a folder with AxBench's training file (`*train*.parquet`) and `alpaca_eval.json`,
            and, if there are any, texts for detection (`*latent_eval*.parquet`), quadruples (a
            parquet file with the columns `negative_input` and so on), and checksums
            (`checksums.json`, an object from file name to SHA-256, or `SHA256SUMS`); a checkout of
            AxBench or of the release; or `hub` (`pyvene/axbench-concept500`) or
            `pyvene/axbench-concept10`. Without a training file the quadruples stand for it.
        cell: model size and layer that AxBench took the concepts from.
        usual: the one where there are several and none is asked for.

    Raises:
        InputError: naming the file, row and column that cannot be used, or the file that is
            missing, ambiguous, or not what its checksum says.
    """
    found = find_sources(source, cell, usual)
    if found.train is None:
        assert found.contrastive is not None
        train = _as_train(read_quadruples(found.contrastive))
    else:
        train = _read(found.train, AXBENCH_COLUMNS)
    concepts = dict(zip(train["concept_id"], train["output_concept"], strict=True))
    concepts.pop(NO_CONCEPT, None)
    instructions = _read(found.instructions, ("instruction",))
    if len(instructions) != ALPACA_EVAL_COUNT:
        log.warning(
            "%s has %d instructions, not AlpacaEval's %d, so the draws are not AxBench's",
            *(found.instructions, len(instructions), ALPACA_EVAL_COUNT),
        )
    return AxBenchData(
        name=str(found.train or found.contrastive),
        concept_ids=tuple(sorted(int(concept_id) for concept_id in concepts)),
        sha256=found.sha256,
        _train=train,
        _instructions=instructions,
        _latent=None if found.latent is None else _read_latent(found.latent, concepts),
        _quadruples=None
        if found.contrastive is None
        else _read_quadruples(found.contrastive, concepts),
    )


def _as_train(rows: Sequence[Quadruple]) -> pd.DataFrame:
    """AxBench's training rows of quadruples; their neutral outputs are the rows of no concept."""
    frame = to_frame(rows)
    named = {"negative_input": "input", "positive_output": "output", "concept": "output_concept"}
    positive = frame.rename(columns=named)[[*AXBENCH_COLUMNS]]
    neutral = positive.assign(
        output=frame["negative_output"], output_concept="", concept_id=NO_CONCEPT
    )
    return pd.concat([neutral, positive], ignore_index=True)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table with all these columns, whose cells are texts, and whole numbers in `concept_id`."""
    frame = read_frame(path)
    check_columns(frame, columns, str(path))
    texts = [column for column in columns if column != "concept_id"]
    check_texts(frame, texts, str(path), filled=texts)
    if "concept_id" in columns and not pd.api.types.is_integer_dtype(frame["concept_id"]):
        raise InputError(f"{path}, column 'concept_id' is not of whole numbers")
    return frame


def _read_latent(path: Path, concepts: dict[int, str]) -> pd.DataFrame:
    frame = _read(path, ("input", "output", "output_concept", "category", "concept_id"))
    unknown = sorted(set(frame["category"]) - set(_CATEGORIES))
    if unknown:
        raise InputError(
            f"{path} has the category {unknown[0]!r}, which is none of {', '.join(_CATEGORIES)}"
        )
    # A hard negative carries the sense it was written for in place of the concept.
    plain = frame[frame["category"] != HARD]
    _same_concepts(path, zip(plain["concept_id"], plain["output_concept"], strict=True), concepts)
    return frame


def _read_quadruples(path: Path, concepts: dict[int, str]) -> dict[int, list[Quadruple]]:
    frame = read_frame(path)
    check_columns(frame, ("concept_id", "concept"), str(path))
    rows = quadruples_from_frame(frame, str(path))
    _same_concepts(path, ((row.concept_id, row.concept) for row in rows), concepts)
    return by_concept(rows)


def _same_concepts(path: Path, named: Iterable[tuple[int, str]], concepts: dict[int, str]) -> None:
    """Every cell counts its concepts from 0, so a file of another cell is told by their words."""
    for concept_id, concept in named:
        if concept_id not in concepts:
            raise InputError(f"{path} has concept {concept_id}, which the training file has not")
        if concept.strip() != concepts[concept_id].strip():
            raise InputError(
                f"{path} calls concept {concept_id} {concept!r}, but the training file "
                f"{concepts[concept_id]!r}; are they of the same cell?"
            )


_ROWS, _DETECTION, _TEXTS = "quadruples.parquet", "detection.parquet", "texts.json"


@dataclass(frozen=True)
class ConceptTexts:
    """The questions about a concept, and the data that answer them.

    Attributes:
        concept: in words.
        instructions: what the models are asked; the place in the list is the input_id.
        pool: instructions that the proxy compares these with.
        with_concept, without_concept: the training file's outputs, by the same authors; the
            proxy's probe is trained on them where there are no texts for detection.
    """

    concept: str
    instructions: Sequence[str]
    pool: Sequence[str]
    with_concept: Sequence[str]
    without_concept: Sequence[str]


def write_texts(
    folder: Path, texts: ConceptTexts, rows: Sequence[Quadruple], detection: pd.DataFrame | None
) -> None:
    """Write everything, each file atomically.

    Args:
        rows: to train on.
        detection: texts to be told apart (`label`, `instruction`, `response`), if there are any.
    """
    write_table(folder / _ROWS, to_frame(rows))
    if detection is not None:
        write_table(folder / _DETECTION, detection)
    write_atomically(folder / _TEXTS, json.dumps(asdict(texts), ensure_ascii=False).encode())


def read_texts(folder: Path) -> ConceptTexts:
    """The texts of a concept."""
    return ConceptTexts(**json.loads((folder / _TEXTS).read_text(encoding="utf-8")))


def read_rows(folder: Path) -> list[Quadruple]:
    """The concept's training rows."""
    return read_quadruples(folder / _ROWS)


def read_detection(folder: Path) -> pd.DataFrame | None:
    """The texts to be told apart; None if the data have none."""
    path = folder / _DETECTION
    return pd.read_parquet(path) if path.exists() else None
