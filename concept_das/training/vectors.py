"""From quadruples to a saved, evaluated vector: what `train`, `evaluate` and `demo` share."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_das.data.chat_format import ChatFormat, chat_of
from concept_das.data.quadruples import Quadruple, data_hash
from concept_das.errors import InputError
from concept_das.methods import Fit, FittedMethod, TrainedMethod
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import find_blocks
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel
from concept_das.steering.artifact import Artifact
from concept_das.training.concept import ConceptRows, TrainingTask
from concept_das.training.loop import no_teacher, train_directions
from concept_das.training.options import DEFAULT_ENGINE, EngineOptions
from concept_das.training.teacher import Teacher
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
    teacher: Any = None,
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
        teacher: the distribution to learn from, in place of the model's own on the source prompt: a
            `Teacher`, another model with the same tokenizer, or a function of `input_ids` and
            `attention_mask` that gives logits.

    Raises:
        InputError: if the method acts at one layer and several are given, or the data, the layer,
            the recipe or the teacher cannot be used.
        TrainingError: if a loss or gradient is NaN or Inf.
    """
    chat = chat_of(chat)
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
    own = None if teacher is None else Teacher.of(teacher)
    (trained,) = train_vectors(loaded, chat, [concept], layer, config, engine=engine, teacher=own)
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
    teacher: Teacher | None = None,
) -> list[TrainedVector]:
    """The same for several concepts, trained `engine.together` at a time."""
    start = time.monotonic()
    method = find_method(config.method)
    layers, config = place(loaded.model, layer, config)
    fits = [_fit(loaded, chat, concept, layers, config) for concept in concepts]
    if teacher is not None:
        if isinstance(method, FittedMethod):
            raise no_teacher(config.method)
        for fit in fits:
            fit.common["recipe"]["teacher"] = teacher.name or "a function without a name"
    if isinstance(method, FittedMethod):
        method.check_one_layer(layers)
        vectors = [method.fit(fit) for fit in fits]
        seconds = (time.monotonic() - start) / len(fits)
        return [TrainedVector(vector, seconds=seconds) for vector in vectors]
    assert isinstance(method, TrainedMethod)
    sites = method.sites(loaded.model, layers, config)
    tasks = [
        TrainingTask(
            rows=method.rows(fit.encoded, config),
            heldout=method.rows(
                loaded.encode(chat, concept.heldout, config.max_response_tokens), config
            ),
            name=f"concept {concept.rows[0].concept_id}" if len(concepts) > 1 else "",
            checkpoint=concept.checkpoint,
            tracker=concept.tracker,
            seed=concept.seed,
            on_epoch=concept.on_epoch,
        )
        for concept, fit in zip(concepts, fits, strict=True)
    ]
    results = train_directions(loaded.model, sites, tasks, config, engine=engine, teacher=teacher)
    vectors = []
    for fit, result in zip(fits, results, strict=True):
        fit.common["recipe"]["best_epoch"] = result.best_epoch
        vectors.append(method.artifact(fit, result.interventions))
    seconds = (time.monotonic() - start) / len(fits)
    return [
        TrainedVector(vector, result.history, seconds + result.earlier_seconds)
        for vector, result in zip(vectors, results, strict=True)
    ]


def place(
    model: PreTrainedModel, layer: Layers, config: TrainingConfig
) -> tuple[tuple[int, ...], TrainingConfig]:
    """Find the blocks to act at, and put them into the recipe.

    Args:
        layer: as for `train_vector`.

    Returns:
        The blocks, from the lowest, and the recipe with them. A single block that the recipe did
        not name is left out of it, so that progress of the first release still fits the run.

    Raises:
        InputError: if no block is given, one is given twice, or the model is not that deep.
    """
    acts_at_several = bool(find_method(config.method).config().layers)
    if not isinstance(layer, int):
        layers = config.layers if layer is None else layer
        if not layers:
            raise InputError("no block is named to act at; give a layer, or several as layers")
    elif acts_at_several:
        layers = config.layers
        if not layers:
            raise InputError(f"{config.method} acts at several layers; give --layers '[5, 10]'")
    elif config.layers:
        raise InputError("layer and layers are both given; give one of them")
    else:
        layers = (layer,)
    blocks = find_blocks(model, layers)
    named = acts_at_several or config.layers or len(blocks) > 1
    return blocks, replace(config, layers=blocks if named else ())


def _fit(
    loaded: LoadedModel,
    chat: ChatFormat,
    concept: ConceptRows[Quadruple],
    layers: tuple[int, ...],
    config: TrainingConfig,
) -> Fit:
    if concept.seed is not None:
        config = replace(config, seed=concept.seed)
    return Fit(
        loaded=loaded,
        chat=chat,
        layers=layers,
        rows=concept.rows,
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
