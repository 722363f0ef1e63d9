"""From quadruples to a saved, evaluated vector: what `train`, `evaluate` and `demo` share."""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from concept_das.chats import ChatFormat, pad_id_of
from concept_das.data import EncodedQuadruple, Quadruple, data_hash, encode_quadruples
from concept_das.factors import Latents, measure_latents
from concept_das.models import LoadedModel
from concept_das.sites import find_site
from concept_das.tracking import Tracker
from concept_das.training import Engine, TrainingConfig, TrainingResult, train_direction
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
    engine: Engine = "auto",
) -> TrainedVector:
    """Train the directions, measure the factors, and describe the result.

    Args:
        layer: block index, 0-based; negative counts from the end.
        checkpoint, engine: see `train_direction`.
    """
    site = find_site(loaded.model, layer)
    pad_id = pad_id_of(chat.tokenizer)
    encoded = encode_for(loaded, chat, rows, config)
    result = train_direction(
        loaded.model,
        site,
        encoded,
        config,
        pad_id=pad_id,
        heldout=encode_for(loaded, chat, heldout, config),
        tracker=tracker,
        checkpoint=checkpoint,
        engine=engine,
    )
    latents = measure_latents(loaded.model, site, result.weight, encoded, pad_id)
    vector = SteeringVector(
        weight=result.weight,
        negative_factor=latents.negative_factor,
        positive_factor=latents.positive_factor,
        layer=site.layer,
        model=ModelIdentity.of(loaded.model, loaded.name, loaded.revision),
        method=config.method,
        concept=rows[0].concept,
        prefix_length=len(chat.prefix),
        system=chat.system,
        source_token=chat.source_token,
        recipe={**asdict(config), "rows": len(rows), "best_epoch": result.best_epoch},
        data_hash=data_hash(rows),
        versions=versions(),
    )
    return TrainedVector(vector, result, latents)


def with_metrics(vector: SteeringVector, metrics: dict[str, float]) -> SteeringVector:
    """The vector with its measurements in the description."""
    return replace(vector, metrics=metrics)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a number."""
    found = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return {"python": platform.python_version(), **found}
