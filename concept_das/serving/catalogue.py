"""The vectors that an engine serves, by name, and how an engine is told of them.

They are folders, named when the engine starts, in vLLM's `additional_config`, which reaches all of
its processes::

    LLM(model, **engine_arguments({"pirate": "runs/pirate"}))
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors

from concept_das.errors import InputError, VectorMismatchError
from concept_das.models.identity import ModelIdentity
from concept_das.serving.request import SteeringRequest
from concept_das.steering.artifact import load_vector
from concept_das.steering.entries import Steering
from concept_das.steering.hub import vector_folder
from concept_das.steering.positions import EVERYWHERE, parse_positions
from concept_das.steering.vector import SteeringVector

CONFIG_KEY = "concept_das"


def engine_arguments(
    vectors: Mapping[str, str | os.PathLike[str]], *, allow_other_weights: bool = False
) -> dict[str, Any]:
    """Arguments of `vllm.LLM`, so that it serves vectors.

    Args:
        vectors: by name: a folder, or another name of a vector (see `load_vector`).
        allow_other_weights: serve another fine-tune of the vectors' model too.
    """
    folders = {name: str(vector_folder(given).absolute()) for name, given in vectors.items()}
    own: dict[str, Any] = {"vectors": folders}
    if allow_other_weights:
        own["allow_other_weights"] = True
    return {"additional_config": {CONFIG_KEY: own}}


def digest_of(vector: SteeringVector) -> str:
    """SHA-256 over all that a vector's edits depend on, and not over where it came from."""
    facts = [vector.operation, vector.layers, vector.positions, vector.prefix_length]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(to_safetensors({n: t.contiguous() for n, t in vector.tensors().items()}))
    return digest.hexdigest()


@dataclass(frozen=True)
class Served:
    """A vector that is served.

    Attributes:
        digest: SHA-256 over all that its edits depend on.
    """

    vector: SteeringVector
    digest: str

    @classmethod
    def read(cls, name: str, folder: Path) -> "Served":
        """Read a saved vector.

        Raises:
            InputError: if the folder holds none, or something that cannot be served.
        """
        if not re.fullmatch(r"[\w.:-]+", name):
            raise InputError(
                f"{name!r} is no name for a served vector; use letters, digits, and any of _ . : -"
            )
        vector = load_vector(folder)
        if not isinstance(vector, SteeringVector):
            raise InputError(
                f"{name} ({folder}) steers by {vector.edit_description()['operation']!r}, which "
                "vLLM is not taught; serve a vector that clamps or adds"
            )
        return cls(vector, digest_of(vector))

    def described(self) -> dict[str, Any]:
        """The facts that a client may want to know of it."""
        vector = self.vector
        return {
            "method": vector.method,
            "concept": vector.concept,
            "operation": vector.operation,
            "layers": list(vector.layers),
            "rank": vector.rank,
            "positions": vector.positions,
            "directions": list(vector.directions),
            "prefix_length": vector.prefix_length,
            "sha256": self.digest,
        }


@dataclass(frozen=True)
class Catalogue:
    """The vectors that an engine serves, by name.

    Attributes:
        allow_other_weights: true if the model may be another fine-tune of the vectors' own.
    """

    vectors: Mapping[str, Served]
    allow_other_weights: bool = False

    @classmethod
    def read(cls, folders: Mapping[str, str | os.PathLike[str]]) -> "Catalogue":
        """Read saved vectors.

        Raises:
            InputError: if one cannot be read or served.
        """
        return cls({name: Served.read(name, Path(folder)) for name, folder in folders.items()})

    @classmethod
    def of(cls, additional_config: Any) -> "Catalogue":
        """Read the vectors that an engine was started with; empty if with none.

        Raises:
            InputError: if its configuration means nothing, or a vector cannot be read or served.
        """
        own = additional_config.get(CONFIG_KEY) if isinstance(additional_config, Mapping) else None
        if own is None:
            return cls({})
        vectors = own.get("vectors") if isinstance(own, Mapping) else None
        if not isinstance(vectors, Mapping) or not own.keys() <= {"vectors", "allow_other_weights"}:
            raise InputError(
                f"additional_config[{CONFIG_KEY!r}] is {own!r}; give "
                '{"vectors": {name: folder, ...}}'
            )
        return replace(
            cls.read(vectors), allow_other_weights=own.get("allow_other_weights") is True
        )

    def check_model(self, model: ModelIdentity) -> None:
        """Make sure that the vectors belong to the model.

        Args:
            model: the model; the weights are not compared if its fingerprint is empty.

        Raises:
            VectorMismatchError: if one does not.
        """
        for name, served in self.vectors.items():
            own = served.vector.model
            known = bool(model.fingerprint) and not self.allow_other_weights
            if not own.has_shape_of(model) or (known and not own.has_weights_of(model)):
                raise VectorMismatchError(
                    f"the vector {name} belongs to {own.name} ({own.n_layers} blocks of width "
                    f"{own.hidden_size}), and {model.name} is another model; serve that one, or "
                    "leave the vector out"
                )

    def described(self) -> list[dict[str, Any]]:
        """The vectors, for a listing."""
        return [{"name": name, **served.described()} for name, served in self.vectors.items()]

    def steering(self, request: SteeringRequest) -> Steering:
        """The steering that a request asks for.

        Raises:
            InputError: if there is no vector of that name, or it cannot do that.
        """
        return request.steering(self._served(request.vector).vector)

    def digest(self, request: SteeringRequest, prompt_length: int) -> str:
        """SHA-256 over all that a request's edits depend on, whatever its vector is called.

        Args:
            prompt_length: tokens of its prompt. Where not every token is steered, the same token
                may be of one request's prompt, and generated in another's.
        """
        served = self._served(request.vector)
        spans = {served.vector.span, parse_positions(request.positions)}
        given = [request.direction, request.multiplier, request.rule, request.positions]
        facts = [served.digest, *given, request.factor, spans != {EVERYWHERE} and prompt_length]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _served(self, name: str) -> Served:
        if name not in self.vectors:
            known = ", ".join(self.vectors) or "none: the engine was started without vectors"
            raise InputError(f"there is no vector {name!r} here; known: {known}")
        return self.vectors[name]
