"""From quadruples to a saved, evaluated vector: what `train`, `evaluate` and `demo` share."""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from concept_das.chats import ChatFormat, pad_id_of
from concept_das.concept_run import TrainingResult, TrainingTask
from concept_das.data import EncodedQuadruple, Quadruple, data_hash, encode_quadruples
from concept_das.factors import Latents, measure_latents
from concept_das.losses import DEFAULT_ENGINE, EngineOptions
from concept_das.methods import find_method
from concept_das.models import LoadedModel
from concept_das.recipe import TrainingConfig
from concept_das.sites import find_site
from concept_das.tracking import NoTracker, Tracker
from concept_das.training import train_directions
from concept_das.vectors import ModelIdentity, SteeringVector

_VERSIONED = ("torch", "transformers", "pyvene", "datasets", "safetensors", "numpy")


@dataclass(frozen=True)
class TrainedVector:
    """A vector with what its training left behind."""

    vector: SteeringVector
    training: TrainingResult
    latents: Latents


def encode_for(
    loaded: LoadedModel, chat: ChatFormat, rows: Sequence[Quadruple], config: TrainingConfig
) -> list[EncodedQuadruple]:
    """Encode rows with the recipe's cut and the model's context length."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return encode_quadruples(
        rows, chat, max_response_tokens=config.max_response_tokens, max_positions=limit
    )


@dataclass(frozen=True)
class ConceptRows:
    """What one concept's vector is made from.

    Attributes:
        rows, heldout: quadruples to train on, and to measure the held-out loss on.
        checkpoint, tracker: see `TrainingTask`.
    """

    rows: Sequence[Quadruple]
    heldout: Sequence[Quadruple] = ()
    checkpoint: Path | None = None
    tracker: Tracker = field(default_factory=NoTracker)


def train_vector(
    loaded: LoadedModel,
    chat: ChatFormat,
    rows: Sequence[Quadruple],
    heldout: Sequence[Quadruple],
    layer: int,
    config: TrainingConfig,
    *,
    tracker: Tracker | None = None,
    checkpoint: Path | None = None,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> TrainedVector:
    """Train one concept's directions, measure the factors, and describe the result.

    Args:
        layer: block index, 0-based; negative counts from the end.
    """
    concept = ConceptRows(rows, heldout, checkpoint, tracker or NoTracker())
    return train_vectors(loaded, chat, [concept], layer, config, engine=engine)[0]


def train_vectors(
    loaded: LoadedModel,
    chat: ChatFormat,
    concepts: Sequence[ConceptRows],
    layer: int,
    config: TrainingConfig,
    *,
    engine: EngineOptions = DEFAULT_ENGINE,
) -> list[TrainedVector]:
    """The same for several concepts, trained `engine.together` at a time."""
    method = find_method(config.method)
    site = find_site(loaded.model, layer)
    pad_id = pad_id_of(chat.tokenizer)
    tasks = [
        TrainingTask(
            rows=encode_for(loaded, chat, concept.rows, config),
            heldout=encode_for(loaded, chat, concept.heldout, config),
            name=f"concept {concept.rows[0].concept_id}" if len(concepts) > 1 else "",
            checkpoint=concept.checkpoint,
            tracker=concept.tracker,
        )
        for concept in concepts
    ]
    results = train_directions(loaded.model, [site], tasks, config, pad_id=pad_id, engine=engine)
    trained = []
    for concept, task, result in zip(concepts, tasks, results, strict=True):
        latents = measure_latents(loaded.model, site, result.weight, task.rows, pad_id)
        negative, positive = method.factors(latents)
        vector = SteeringVector(
            weight=result.weight,
            negative_factor=negative,
            positive_factor=positive,
            operation=method.operation,
            layer=site.layer,
            model=ModelIdentity.of(loaded.model, loaded.name, loaded.revision),
            method=config.method,
            concept=concept.rows[0].concept,
            prefix_length=len(chat.prefix),
            system=chat.system,
            source_token=chat.source_token,
            recipe={
                **asdict(config),
                "rows": len(concept.rows),
                "best_epoch": result.best_epoch,
            },
            data_hash=data_hash(concept.rows),
            versions=versions(),
        )
        trained.append(TrainedVector(vector, result, latents))
    return trained


def with_metrics(vector: SteeringVector, metrics: dict[str, float]) -> SteeringVector:
    """The vector with its measurements in the description."""
    return replace(vector, metrics=metrics)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    found = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return {"python": platform.python_version(), **found}
