"""A steering vector as an artifact: what it is, how it is applied, and to which model.

On disk it is a folder with two files: `vector.safetensors` (the directions and factors) and
`vector.json` (everything a person needs to know before applying it). Each holds the other's
SHA-256, so a truncated or edited file is noticed. Nothing is unpickled.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data import Direction
from concept_das.errors import InputError, VectorMismatchError
from concept_das.models import LoadedModel
from concept_das.sites import Site, find_site

FORMAT_VERSION = 1

Operation = Literal["clamp", "add"]
Rule = Literal["paper", "interpolate"]

TENSORS_FILE, DESCRIPTION_FILE = "vector.safetensors", "vector.json"


@dataclass(frozen=True)
class ModelIdentity:
    """Enough to tell whether a vector belongs to a model.

    Attributes:
        name: what the model was loaded as.
        revision: hub commit, if any.
        architecture: class name.
        fingerprint: SHA-256 over the unquantised weights (norms and the first embedding rows) in
            bfloat16, the same whatever precision the model was loaded in.
    """

    name: str
    revision: str | None
    architecture: str
    n_layers: int
    hidden_size: int
    vocab_size: int
    fingerprint: str

    @classmethod
    def of(
        cls, model: PreTrainedModel, name: str = "", revision: str | None = None
    ) -> "ModelIdentity":
        """Describe a model."""
        config = model.config.get_text_config()
        return cls(
            name=name or model.config.name_or_path or type(model).__name__,
            revision=revision,
            architecture=type(model).__name__,
            n_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            fingerprint=_fingerprint(model),
        )


def _fingerprint(model: PreTrainedModel) -> str:
    """Hash of the vectors among the parameters (norms, biases) and 64 rows of the embedding."""
    digest = hashlib.sha256()
    small = {name: p for name, p in model.named_parameters() if p.dim() == 1 and p.numel() > 1}
    small["embedding"] = model.get_input_embeddings().weight[:64]
    for name in sorted(small):
        values = small[name].detach().to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(name.encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class SteeringVector:
    """Directions at one site with the factors measured on data.

    Attributes:
        weight: `[rank, dim]` float32; orthonormal rows where the operation is `clamp`.
        negative_factor: `[rank]`, mean coordinates of neutral prompts (for `add`: the scale that
            suppresses).
        positive_factor: `[rank]`, mean coordinates of concept prompts (for `add`: the scale that
            elicits).
        operation: `clamp` sets the coordinates W h to a; `add` adds a W.
        layer: block index, 0-based; the site is that block's output.
        model: the model it was trained on.
        prefix_length: template tokens at the start of every prompt that are not steered.
        system: system prompt it was trained under.
        source_token: index of the source token within the generation prompt.
        method, concept, recipe, data_hash, metrics, versions: where it comes from.
    """

    weight: Float[Tensor, "rank dim"]
    negative_factor: Float[Tensor, "rank"]
    positive_factor: Float[Tensor, "rank"]
    layer: int
    model: ModelIdentity
    operation: Operation = "clamp"
    method: str = "cdas"
    concept: str = ""
    prefix_length: int = 0
    system: str | None = None
    source_token: int = -1
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data_hash: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rank = self.weight.shape[0]
        for name in ("negative_factor", "positive_factor"):
            value = getattr(self, name)
            if value.shape != (rank,):
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected ({rank},)")
            if not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"{name} holds NaN or Inf: a hidden state of the data overflowed; load the "
                    "model in float32 or drop the row"
                )
        if not bool(torch.isfinite(self.weight).all()):
            raise InputError("the weight holds NaN or Inf; train the vector again")

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.weight.shape[0]

    def target(
        self, direction: Direction, multiplier: float = 1.0, rule: Rule = "paper"
    ) -> Float[Tensor, "rank"]:
        """The coordinates to clamp to, or the amounts to add.

        Args:
            direction: `elicit` or `suppress`.
            multiplier: strength, without unit; 1 is the paper's unit factor under both rules.
            rule: `paper` scales the measured factor from the coordinate's zero, m * factor;
                `interpolate` moves along the line between the two measured means: for `elicit` 0 is
                the neutral mean and 1 the concept mean, for `suppress` the other way round.

        Raises:
            InputError: on an unknown direction or rule.
        """
        if direction not in ("elicit", "suppress"):
            raise InputError(f"unknown direction {direction!r}; choose elicit or suppress")
        here, there = self.negative_factor, self.positive_factor
        if direction == "suppress":
            here, there = there, here
        if rule == "paper":
            return multiplier * there
        if rule == "interpolate":
            return here + multiplier * (there - here)
        raise InputError(f"unknown rule {rule!r}; choose paper or interpolate")

    def site(self, model: PreTrainedModel) -> Site:
        """Where the vector acts in this model."""
        return find_site(model, self.layer)

    def check_model(self, model: PreTrainedModel) -> None:
        """Make sure the vector belongs to the model.

        Raises:
            VectorMismatchError: if it was trained on another one.
        """
        other = ModelIdentity.of(model)
        if other.fingerprint != self.model.fingerprint:
            raise VectorMismatchError(
                f"this vector belongs to {_described(self.model)}, not to {_described(other)}; "
                "load that model, or train a vector for this one"
            )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `vector.safetensors` and `vector.json` into a folder, atomically."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        description = self.describe()
        tensors = {
            "weight": self.weight,
            "negative_factor": self.negative_factor,
            "positive_factor": self.positive_factor,
        }
        blob = to_safetensors(
            {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()},
            metadata={"description_sha256": _hash_of(description)},
        )
        write_atomically(target / TENSORS_FILE, blob)
        signed = {**description, "tensors_sha256": hashlib.sha256(blob).hexdigest()}
        write_atomically(
            target / DESCRIPTION_FILE, json.dumps(signed, indent=2, ensure_ascii=False).encode()
        )
        return target

    def describe(self) -> dict[str, Any]:
        """The readable description, as `vector.json` holds it."""
        formula = {
            "clamp": "h + W^T (a - W h), at every position from prefix_length on",
            "add": "h + W^T a, at every position from prefix_length on",
        }
        return {
            "format": "concept-das steering vector",
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "concept": self.concept,
            "operation": self.operation,
            "formula": formula[self.operation],
            "rank": self.rank,
            "row_norms": [round(norm, 6) for norm in self.weight.norm(dim=1).tolist()],
            "site": {"layer": self.layer, "component": "output of the decoder block, 0-based"},
            "factors": {
                "negative": self.negative_factor.tolist(),
                "positive": self.positive_factor.tolist(),
            },
            "prefix_length": self.prefix_length,
            "system": self.system,
            "source_token": self.source_token,
            "model": asdict(self.model),
            "recipe": dict(self.recipe),
            "data_hash": self.data_hash,
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
        }

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], model: PreTrainedModel | LoadedModel | None = None
    ) -> "SteeringVector":
        """Read a saved vector, and check that it belongs to the model if one is given.

        Raises:
            InputError: if a file is missing, truncated or was edited.
            VectorMismatchError: if it belongs to another model.
        """
        vector = _read(Path(folder))
        if model is not None:
            vector.check_model(model.model if isinstance(model, LoadedModel) else model)
        return vector


def _read(folder: Path) -> SteeringVector:
    for name in (TENSORS_FILE, DESCRIPTION_FILE):
        if not (folder / name).exists():
            raise InputError(f"{folder} holds no {name}; give the folder of a saved vector")
    corrupt = f"{folder / TENSORS_FILE} is truncated or was changed; save the vector again"
    try:
        signed = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / DESCRIPTION_FILE} is not valid JSON: {error}") from error
    if not isinstance(signed, dict):
        raise InputError(f"{folder / DESCRIPTION_FILE} is no description of a vector; restore it")
    blob = (folder / TENSORS_FILE).read_bytes()
    if hashlib.sha256(blob).hexdigest() != signed.pop("tensors_sha256", None):
        raise InputError(corrupt)
    if signed.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder} has format version {signed.get('format_version')}; this release reads "
            f"{FORMAT_VERSION}"
        )
    try:
        with safe_open(folder / TENSORS_FILE, framework="pt") as file:
            if (file.metadata() or {}).get("description_sha256") != _hash_of(signed):
                raise InputError(
                    f"{folder / DESCRIPTION_FILE} was changed after saving; restore it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(corrupt) from error
    return SteeringVector(
        **tensors,
        layer=signed["site"]["layer"],
        model=ModelIdentity(**signed["model"]),
        **{
            key: signed[key]
            for key in (
                "operation",
                "method",
                "concept",
                "prefix_length",
                "system",
                "source_token",
                "recipe",
                "data_hash",
                "metrics",
                "versions",
            )
        },
    )


def _described(model: ModelIdentity) -> str:
    return f"{model.name} ({model.architecture}, weights {model.fingerprint[:8]})"


def _hash_of(description: Mapping[str, Any]) -> str:
    # Through JSON and back, so that what was read hashes like what was written.
    text = json.dumps(json.loads(json.dumps(description)), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
