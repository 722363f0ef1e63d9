"""From quadruples to a saved, evaluated vector: what `train`, `evaluate` and `demo` share."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_das.data.chat_format import ChatFormat
from concept_das.data.quadruples import Quadruple, data_hash
from concept_das.errors import InputError
from concept_das.methods import FittedMethod, Job, TrainedMethod
from concept_das.methods.base import blocks_of
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.steering.artifact import Artifact
from concept_das.training.concept import ConceptRows, TrainingTask
from concept_das.training.loop import train_directions
from concept_das.training.options import DEFAULT_ENGINE, EngineOptions
from concept_das.training.tracking import NoTracker, Tracker

# A block, several of them, `spread` (see `TrainingConfig`), or None for the recipe's.
Layers = int | Sequence[int] | Literal["spread"] | None

_VERSIONED = ("torch", "transformers", "pyvene", "datasets", "safetensors", "numpy")


@dataclass(frozen=True)
class TrainedVector:
    """A vector, and what its training recorded step by step and epoch by epoch, if it was trained.

    Attributes:
        history: see `TrainingResult`.
        seconds: wall time from the rows to the vector, over all parts of a training that was
            interrupted; of vectors made together an equal part each.
    """

    vector: Artifact
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def train_vector(
    loaded: LoadedModel | PreTrainedModel,
    chat: ChatFormat | PreTrainedTokenizerBase,
    rows: Any,
    heldout: Any = (),
    layer: Layers = None,
    config: TrainingConfig | None = None,
    *,
    tracker: Tracker | None = None,
    checkpoint: Path | None = None,
    engine: EngineOptions = DEFAULT_ENGINE,
    on_epoch: Callable[[Mapping[str, float]], object] | None = None,
) -> TrainedVector:
    """Train one concept by the recipe's method, measure the factors, and describe the result.

    ::

        vector = train_vector(model, tokenizer, "pirate.csv", layer="spread").vector

    Args:
        loaded: a model of transformers, or one that `load_model` loaded.
        chat: its tokenizer, or a chat format (with a system prompt, or `chat_template="plain"` for
            a base model).
        rows: quadruples to train on: any source that `read_quadruples` takes.
        heldout: the same, for the held-out loss.
        layer: block index, 0-based; negative counts from the end. Several of them, or `spread`
            (see `TrainingConfig`), for a method that acts at several; None for the layers of
            the recipe.
        config: the recipe; CDAS's with the paper's numbers if None.
        on_epoch: see `ConceptRows`.

    Raises:
        InputError: if the method acts at one layer and several are given, or the data, the layer
            or the recipe cannot be used.
        TrainingError: if a loss or gradient is NaN or Inf.
    """
    if isinstance(chat, PreTrainedTokenizerBase):
        chat = ChatFormat.of(chat)
    if not isinstance(loaded, LoadedModel):
        loaded = LoadedModel.of(loaded, chat.tokenizer)
    train, held = _quadruples(rows), _quadruples(heldout)
    if not train:
        raise InputError("there are no training rows")
    if len({row.concept_id for row in train}) > 1:
        raise InputError(
            "the rows are of several concepts; give those of one, or use train_vectors"
        )
    concept = ConceptRows(train, held, checkpoint, tracker or NoTracker(), on_epoch=on_epoch)
    config = config or TrainingConfig()
    (trained,) = train_vectors(loaded, chat, [concept], layer, config, engine=engine)
    return trained


def _quadruples(source: Any) -> Sequence[Quadruple]:
    is_list = isinstance(source, Sequence) and not isinstance(source, str)
    if is_list and all(isinstance(row, Quadruple) for row in source):
        return source
    from concept_das.data.reading import read_quadruples  # with it come datasets and pandas

    return read_quadruples(source)


def train_vectors(
    loaded: LoadedModel,
    chat: ChatFormat,
    concepts: Sequence[ConceptRows[Quadruple]],
    layer: Layers,
    config: TrainingConfig,
    *,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> list[TrainedVector]:
    """The same for several concepts, trained `engine.together` at a time."""
    start = time.monotonic()
    method = find_method(config.method)
    layer, config = _placed(loaded, layer, config)
    jobs = [_job(loaded, chat, concept, layer, config) for concept in concepts]
    if isinstance(method, FittedMethod):
        if config.layers:
            raise InputError(f"{config.method} acts at one layer; give --layer and no --layers")
        vectors = [method.fit(job) for job in jobs]
        seconds = (time.monotonic() - start) / len(jobs)
        return [TrainedVector(vector, seconds=seconds) for vector in vectors]
    assert isinstance(method, TrainedMethod)
    sites = method.sites(loaded.model, layer, config)
    tasks = [
        TrainingTask(
            rows=method.rows(job.encoded, config),
            heldout=method.rows(
                loaded.encode(chat, concept.heldout, config.max_response_tokens), config
            ),
            name=f"concept {concept.rows[0].concept_id}" if len(concepts) > 1 else "",
            checkpoint=concept.checkpoint,
            tracker=concept.tracker,
            seed=concept.seed,
            on_epoch=concept.on_epoch,
        )
        for concept, job in zip(concepts, jobs, strict=True)
    ]
    results = train_directions(loaded.model, sites, tasks, config, engine=engine)
    vectors = []
    for job, result in zip(jobs, results, strict=True):
        job.common["recipe"]["best_epoch"] = result.best_epoch
        vectors.append(method.artifact(job, result.interventions))
    seconds = (time.monotonic() - start) / len(jobs)
    return [
        TrainedVector(vector, result.history, seconds + result.earlier_seconds)
        for vector, result in zip(vectors, results, strict=True)
    ]


def _placed(
    loaded: LoadedModel, layer: Layers, config: TrainingConfig
) -> tuple[int, TrainingConfig]:
    """The layer of a method that acts at one, and the recipe with the layers of any other."""
    has_own = bool(find_method(config.method).config().layers)
    if isinstance(layer, int):
        if config.layers and not has_own:
            raise InputError("layer and layers are both given; give one of them")
    elif layer == "spread":
        config = replace(config, layers="spread")
    elif layer is not None:
        if len(layer) == 1 and not has_own:
            return layer[0], replace(config, layers=())
        config = replace(config, layers=tuple(layer))
    elif not config.layers:
        raise InputError("no block is named to act at; give a layer, or several as layers")
    if config.layers == "spread":
        config = replace(config, layers=tuple(blocks_of(loaded.model, config)))
    return layer if isinstance(layer, int) else 0, config


def _job(
    loaded: LoadedModel,
    chat: ChatFormat,
    concept: ConceptRows[Quadruple],
    layer: int,
    config: TrainingConfig,
) -> Job:
    if concept.seed is not None:
        config = replace(config, seed=concept.seed)
    return Job(
        model=loaded.model,
        chat=chat,
        layer=layer,
        rows=concept.rows,
        encoded=loaded.encode(chat, concept.rows, config.max_response_tokens),
        config=config,
        common={
            "model": ModelIdentity.of(loaded.model, loaded.name, loaded.revision),
            "method": config.method,
            "concept": concept.rows[0].concept,
            "prefix_length": len(chat.prefix),
            "system": chat.system,
            "source_token": chat.source_token,
            "chat": chat.description,
            # A list, as it is when read again.
            "recipe": {**config.record(), "layers": list(config.layers), "rows": len(concept.rows)},
            "data_hash": data_hash(concept.rows),
            "versions": versions(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    found = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return {"python": platform.python_version(), **found}
