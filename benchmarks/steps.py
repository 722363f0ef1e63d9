"""Steps that every benchmark takes with a model: train a method on it, and ask it prompts."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.data.chat_format import ChatFormat
from concept_das.data.quadruples import Quadruple
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.loading import LoadedModel
from concept_das.models.packaged import PACKAGED_MODEL
from concept_das.runs.digests import whole_digest
from concept_das.runs.files import sha256_of, write_atomically
from concept_das.runs.rows import RowLog
from concept_das.runs.stages import Job
from concept_das.serving.generators import check_generator
from concept_das.steering.artifact import Artifact, load_vector
from concept_das.steering.context import Steering
from concept_das.steering.generation import Generator, generate_responses
from concept_das.training.concept import ConceptRows
from concept_das.training.options import EngineOptions
from concept_das.training.tracking import NoTracker, Tracker
from concept_das.training.vectors import train_vectors

UNSTEERED = "unsteered"
"""The method that does nothing: the untouched model."""

_SAMPLE = 1 << 20

log = logging.getLogger(__name__)

# What decides on a model's output; others, such as a card, may change.
_FILES = ("*.safetensors", "*.bin", "*config.json", "tokenizer*.json", "*.jinja")


@dataclass(frozen=True)
class Subject:
    """A model and its chat format.

    Attributes:
        loading: which model and how; it must name one.
        chat_options: how conversations are written.
        notes: a file of the run in which the weights of a local folder are told apart for a machine
            that does not have them, such as one that only judges.
    """

    loading: ModelOptions
    chat_options: ChatOptions
    notes: Path | None = None

    @property
    def name(self) -> str:
        """The name that the model is loaded by."""
        return self.loading.model or PACKAGED_MODEL

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model itself."""
        return self.loading.load()

    @cached_property
    def chat(self) -> ChatFormat:
        """Its chat format, for which the model is not loaded."""
        return self.chat_options.of_tokenizer(self.loading.load_tokenizer())

    def generator(self, name: str) -> Generator | None:
        """Who answers in the model's place; see `ModelOptions.generator`."""
        return self.loading.generator(name, beside=self.notes and self.notes.parent)

    @cached_property
    def description(self) -> dict[str, Any]:
        """The properties of the model that results depend on, as JSON can hold them.

        Loads nothing.

        A local folder is told by its weight files: their sizes, first and last mebibytes.
        """
        return {
            "model": self.name,
            "revision": self.loading.revision,
            "dtype": self.loading.dtype,
            "load_in_4bit": self.loading.load_in_4bit,
            "system": self.chat_options.system,
            "source_token": self.chat_options.source_token,
            **{
                k: v for k, v in vars(self.chat_options).items() if v is not None and v is not False
            },
            **_template_file(self.chat_options),
            "weights": self._weights(),
        }

    def _weights(self) -> str | None:
        digest = _digest_of(Path(self.name))
        if digest is None and self.notes is not None and self.notes.exists():
            noted: dict[str, str] = json.loads(self.notes.read_bytes())
            return noted.get(self.name)
        return digest

    def note(self) -> None:
        """Write the notes, if there is something to be noted."""
        if self.notes is not None and (digest := _digest_of(Path(self.name))) is not None:
            write_atomically(self.notes, json.dumps({self.name: digest}).encode())

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """`Stage.made_by` of the stages that run the model."""
        return made_by_model(self.name)


def made_by_model(name: str, *more: str) -> dict[str, Any]:
    """Versions of the libraries that compute, and a hash of the whole files of a local folder.

    Args:
        more: libraries that take part where they are installed.
    """
    libraries = ("torch", "transformers", "pyvene", "numpy", *more)
    return {"weights": whole_digest(Path(name), _FILES), **installed(*libraries)}


def installed(*libraries: str) -> dict[str, str]:
    """The versions of those libraries that are installed."""
    found = {}
    for library in libraries:
        with suppress(PackageNotFoundError):
            found[library] = version(library).partition("+")[0]  # without the kind of build
    return found


def _template_file(chat: ChatOptions) -> dict[str, str]:
    """The content of a template's file, by its hash."""
    name = chat.chat_template
    if name is None or "{" in name or not Path(name).is_file():
        return {}
    return {"template_file": sha256_of(Path(name))}


def _digest_of(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted({path for name in _FILES for path in folder.glob(name)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()


VECTOR_FOLDER = "vector"


def train_method(
    job: Job,
    subject: Subject,
    rows: Sequence[Quadruple],
    layer: int,
    config: TrainingConfig,
    engine: EngineOptions,
    tracker: Tracker | None = None,
) -> None:
    """Train a method and leave `vector/` and `history.jsonl` in the job's folder.

    An interrupted job goes on after its last whole epoch.

    Args:
        layer: block of a method that acts at one, 0-based, unless the recipe names several.
    """
    where = None if config.layers else layer
    concept = ConceptRows(rows, (), job.scratch / "progress", tracker or NoTracker())
    (trained,) = train_vectors(
        subject.loaded, subject.chat, [concept], where, config, engine=engine
    )
    trained.vector.save(job.folder / VECTOR_FOLDER)
    history = "".join(f"{json.dumps(record)}\n" for record in trained.history)
    write_atomically(job.folder / "history.jsonl", history.encode())


def trained_vector(folder: Path, subject: Subject, how: "Answering | None" = None) -> Artifact:
    """The artifact that `train_method` left in a folder.

    Args:
        how: if it is only to answer; the model is not loaded where something else runs it, which
            makes sure itself that the artifact belongs to it.

    Raises:
        VectorMismatchError: if it belongs to another model.
    """
    here = how is None or how.generator == "hf"
    return load_vector(folder / VECTOR_FOLDER, subject.loaded if here else None)


@dataclass(frozen=True)
class Asked:
    """One prompt of a benchmark.

    Attributes:
        key: unique within a job.
        prompt: the user's turn.
        steering: None for the untouched model.
        noise: what the sampling follows from, with the seed. Prompts that share it share their
            noise, so that methods and strengths differ by nothing but themselves.
        columns: what else stands in the answer's row.
    """

    key: str
    prompt: str
    steering: Steering | None
    noise: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answering:
    """The way prompts are answered.

    Attributes:
        new_tokens: length of an answer.
        temperature: 0 decodes greedily.
        seed: of the sampling.
        top_k, top_p: see `generate_responses`.
        batch_tokens: see `generate_responses`; does not change the answers.
        generator: hf, vllm, or the address of a server; see `ModelOptions.generator`.

    Raises:
        InputError: if there is no such generator.
    """

    new_tokens: int
    temperature: float
    seed: int = 42
    batch_tokens: int = 8192
    top_k: int | None = None
    top_p: float | None = None
    generator: str = "hf"

    def __post_init__(self) -> None:
        check_generator(self.generator)

    @property
    def description(self) -> dict[str, Any]:
        """The settings that answers depend on, as JSON can hold them."""
        names = ("new_tokens", "temperature", "seed", "top_k", "top_p")
        values = {name: getattr(self, name) for name in names}
        values["generator"] = {"hf": None, "vllm": "vllm"}.get(self.generator, "server")
        return {name: value for name, value in values.items() if value is not None}

    def of_method(self, method: str) -> "Answering":
        """The same for a method: what vLLM cannot apply answers by Hugging Face's generate."""
        if method == UNSTEERED or find_method(method).is_served:
            return self
        return replace(self, generator="hf")

    def notes(self, methods: Iterable[str]) -> list[str]:
        """A sentence on who answered, for a report; none if it was always Hugging Face."""
        if self.generator == "hf":
            return []
        by_hf = [name for name in methods if self.of_method(name).generator == "hf"]
        others = f"; Hugging Face's generate for {', '.join(by_hf)}, which vLLM cannot apply"
        return [
            f"Answers by vLLM{others if by_hf else ''}. Sampled answers share their noise only "
            "where they have one source."
        ]

    @property
    def in_words(self) -> str:
        """The decoding, for a report."""
        if not self.temperature:
            return "greedy"
        limits = "" if self.top_k is None else f", top-k {self.top_k}"
        limits += "" if self.top_p is None else f", top-p {self.top_p:g}"
        return f"sampled at temperature {self.temperature:g}{limits}"


def answer(
    subject: Subject, asked: Sequence[Asked], rows: RowLog, how: Answering, title: str
) -> pd.DataFrame:
    """Answer every prompt that has no row yet; each batch is on disk as soon as it is there.

    Args:
        rows: of the job; closed afterwards.
        title: of the progress bar.

    Returns:
        One row per prompt, in order: `columns`, `prompt` and the answer's `text`.
    """
    with rows as log:
        missing = set(log.missing([one.key for one in asked]))
        todo = [one for one in asked if one.key in missing]

        def keep(indices: list[int], texts: list[str]) -> None:
            for i, text in zip(indices, texts, strict=True):
                one = todo[i]
                log.append(one.key, {**one.columns, "prompt": one.prompt, "text": text})

        if todo:
            source = subject.generator(how.generator)
            generate_responses(
                subject.loaded.model if source is None else None,
                subject.chat,
                [subject.chat.prompt(one.prompt) for one in todo],
                steering=[one.steering for one in todo],
                max_new_tokens=how.new_tokens,
                temperature=how.temperature,
                top_k=how.top_k,
                top_p=how.top_p,
                seed=how.seed,
                keys=[one.noise for one in todo],
                batch_tokens=how.batch_tokens,
                progress=title,
                on_batch=keep,
                generator=source,
            )
        return log.frame([one.key for one in asked])
