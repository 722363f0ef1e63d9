"""Define, save and load artifacts: the results of methods, each of which steers one model.

On disk it is a folder with two files: `vector.safetensors` (the tensors) and `vector.json`
(everything a person needs to know before applying it). Each holds the other's SHA-256, so a
truncated or edited file is noticed. Nothing is unpickled. While both are replaced, the new
description also stands beside them under another name, so that one of the two fits the tensors
whenever the process is killed.
"""

import hashlib
import importlib
import json
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.data.chat_format import ChatFormat, Prompt
from concept_das.errors import InputError, VectorMismatchError
from concept_das.models.identity import ModelIdentity
from concept_das.models.loading import LoadedModel, model_of
from concept_das.notebook import html_table, rounded
from concept_das.runs.files import sha256_of, without_nan, write_atomically
from concept_das.steering.card import vector_card
from concept_das.steering.hub import DESCRIPTION_FILE, TENSORS_FILE, upload, vector_folder
from concept_das.steering.positions import EVERYWHERE, Span
from concept_das.words import DIRECTIONS, RECOVERY, Direction, Rule

if TYPE_CHECKING:
    from concept_das.steering.conditions import Condition
    from concept_das.steering.entries import Steering

FORMAT_VERSION = 1

log = logging.getLogger(__name__)

# The description of tensors that are about to be written.
COMING_FILE = ".vector.json.coming"

Known = TypeVar("Known", bound="type[Artifact]")


@dataclass(frozen=True)
class ModuleEdit:
    """A change of one module's output while the model runs.

    Attributes:
        module: the module's path in the model.
        change: (the module's input, its output), both `[rows, positions, _]` -> the edited output.
        span: the tokens that are edited.
        protects_prefix: true if the template prefix is not edited.
    """

    module: str
    change: Callable[[Tensor, Tensor], Tensor]
    span: Span = EVERYWHERE
    protects_prefix: bool = True


@dataclass(frozen=True, kw_only=True)
class Artifact(ABC):
    """A trained way to steer one model: a vector, a learned edit, an adapter or a prompt.

    Attributes:
        model: the model it was trained on.
        prefix_length: template tokens at the start of every prompt that are not steered.
        system: system prompt it was trained under.
        source_token: index of the source token within the generation prompt.
        chat: description of the chat format it was trained with; None if it is not known.
        method, concept, recipe, data_hash, metrics, versions: its origin.
    """

    model: ModelIdentity
    method: str = "cdas"
    concept: str = ""
    prefix_length: int = 0
    system: str | None = None
    source_token: int = -1
    chat: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data_hash: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    # The operations a subclass reads; in the description under `operation`.
    operations: ClassVar[tuple[str, ...]]

    # Whether it steers with text, which has no strength, and not inside the model.
    is_text: ClassVar[bool] = False

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions it can steer in."""
        return DIRECTIONS

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of directions at a site; 0 where there are none."""

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """Blocks it acts at, 0-based."""

    @property
    def parameters(self) -> int:
        """Numbers that were learned."""
        return sum(value.numel() for value in self.tensors().values())

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The content of `vector.safetensors`."""

    @abstractmethod
    def edit_description(self) -> dict[str, Any]:
        """The part of `vector.json` about the edit itself: `operation`, `formula` and the rest."""

    @classmethod
    @abstractmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "Artifact":
        """The inverse of `tensors` and `edit_description`.

        Args:
            common: the fields of `Artifact` itself, as keyword arguments.
        """

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """The changes that steer; vectors are applied by `steer` itself, row by row."""
        return ()

    def prompt(self, prompt: Prompt, direction: Direction) -> Prompt:
        """The prompt to give to the model; changed only by what steers with text."""
        return prompt

    def at(
        self,
        multiplier: float,
        direction: Direction = "elicit",
        rule: Rule = "paper",
        *,
        when: "Condition | None" = None,
    ) -> "Steering":
        """It with a strength, to steer with; see `Steering`.

        Raises:
            InputError: if the multiplier is no finite number.
        """
        # By name, because entries are made of artifacts.
        entries = importlib.import_module("concept_das.steering.entries")
        steering: Steering = entries.Steering(self, direction, multiplier, rule, when=when)
        return steering

    def check_direction(self, direction: Direction) -> None:
        """Make sure it can steer in a direction.

        Raises:
            InputError: if it cannot.
        """
        if direction not in DIRECTIONS:
            raise InputError(f"unknown direction {direction!r}; choose elicit or suppress")
        if direction not in self.directions:
            raise InputError(
                f"{self.method} was trained to {' and '.join(self.directions)} only and cannot "
                f"{direction}; choose a method that can (`concept-das methods`)"
            )

    def check_model(self, model: PreTrainedModel, *, allow_other_weights: bool = False) -> None:
        """Make sure it belongs to the model: the weights are those that it was trained on.

        Precision, quantisation, device and wrappers (torch.compile, PEFT) may differ; what an
        active adapter adds counts as part of the weights.

        Args:
            allow_other_weights: warn, and do not raise, if it is another model with blocks of the
                same number and width: a fine-tune, perhaps.

        Raises:
            VectorMismatchError: if it was trained on another one.
        """
        other = ModelIdentity.of(model)
        if other.has_weights_of(self.model):
            return
        found = f"this vector belongs to {_described(self.model)}, not to {_described(other)}"
        if not other.has_shape_of(self.model):
            raise VectorMismatchError(f"{found}; load that model, or train a vector for this one")
        if not allow_other_weights:
            raise VectorMismatchError(
                f"{found}; load that model, train a vector for this one, or give "
                "allow_other_weights=True if this is a fine-tune of it"
            )
        log.warning("%s; its effect on other weights is not known", found)

    def check_chat(self, chat: ChatFormat) -> None:
        """Make sure that conversations are written as in training; see `ChatFormat.check`.

        Raises:
            InputError: if other tokens than in training would be steered.
        """
        chat.check(self.chat, self.system, "this vector")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `vector.safetensors` and `vector.json` into a folder.

        Whenever it is interrupted, the folder holds the old artifact or the new one.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        description = self.describe()
        blob = to_safetensors(
            {
                # Copied, because safetensors refuses tensors that share memory.
                name: value.detach().float().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in self.tensors().items()
            },
            metadata={"description_sha256": _hash_of(description)},
        )
        signed = {**description, "tensors_sha256": hashlib.sha256(blob).hexdigest()}
        text = json.dumps(signed, indent=2, ensure_ascii=False)
        write_atomically(target / COMING_FILE, text.encode())
        write_atomically(target / TENSORS_FILE, blob)
        os.replace(target / COMING_FILE, target / DESCRIPTION_FILE)
        return target

    def push_to_hub(
        self,
        repo_id: str,
        *,
        run: str | os.PathLike[str] | None = None,
        license: str | None = None,
        private: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Share it on the Hugging Face hub with a card; `load_vector(repo_id)` reads it again.

        Args:
            repo_id: `name/pirate`; a repository that is made if there is none, and must not hold
                anything else. Its card is written anew.
            run: the folder of the run that made it, for the card; see `vector_card`.
            license: identifier of a license for the card, such as `mit`.
            private: make the repository private.
            revision: branch to write to, made if there is none; the main one if None.
            token: of the hub; the one of `hf auth login` or `HF_TOKEN` if None.

        Returns:
            The repository's address.

        Raises:
            InputError: if the hub refuses, or the repository holds something else.
        """
        run = None if run is None else Path(run)
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save(scratch)
            card = vector_card(self, repo_id, run=run, license=license)
            (folder / "README.md").write_text(card, encoding="utf-8")
            return upload(
                folder, repo_id, DESCRIPTION_FILE, private=private, revision=revision, token=token
            )

    def describe(self) -> dict[str, Any]:
        """The readable description, as `vector.json` holds it."""
        return {
            "format": "concept-das steering vector",
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "concept": self.concept,
            **self.edit_description(),
            "prefix_length": self.prefix_length,
            "system": self.system,
            "source_token": self.source_token,
            **({} if self.chat is None else {"chat": dict(self.chat)}),
            "model": asdict(self.model),
            "recipe": dict(self.recipe),
            "data_hash": self.data_hash,
            "metrics": without_nan(self.metrics),
            "versions": dict(self.versions),
        }

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        blocks = ", ".join(map(str, self.layers)) or "none"
        measured = {way: self.metrics.get(RECOVERY[way]) for way in self.directions}
        rows = [
            ("model", self.model.name),
            (
                "blocks",
                f"{blocks} of {self.model.n_layers}" + f", rank {self.rank}" * bool(self.rank),
            ),
            ("edit", self.edit_description()["formula"]),
            *((f"recovery, {way}", rounded(value)) for way, value in measured.items() if value),
        ]
        return html_table(f"{self.method}: {self.concept}".rstrip(": "), rows)


_READERS: dict[str, type[Artifact]] = {}


def readable(kind: Known) -> Known:
    """Let `load_vector` read a class of artifacts, by the operations it names."""
    for operation in kind.operations:
        _READERS[operation] = kind
    return kind


def load_vector(
    folder: str | os.PathLike[str],
    model: PreTrainedModel | LoadedModel | None = None,
    *,
    allow_other_weights: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Artifact:
    """Read a saved artifact, and check that it belongs to the model if one is given.

    Args:
        folder: the folder it was saved in; or `pirate`, which comes with the package for
            `smollm2-135m`; or a repository on the hub, `name/pirate` or `name/pirate@revision`.
        allow_other_weights: take it for a model with other weights too, with a warning; see
            `Artifact.check_model`. The artifact that is returned belongs to the given model.
        revision: branch, tag or commit on the hub.
        token: of the hub; the one of `hf auth login` or `HF_TOKEN` if None.

    Raises:
        InputError: if a file is missing, truncated or was edited, or the hub does not give it.
        VectorMismatchError: if it belongs to another model.
    """
    artifact = _read(vector_folder(folder, revision=revision, token=token))
    if model is None:
        return artifact
    model = model_of(model)
    artifact.check_model(model, allow_other_weights=allow_other_weights)
    return replace(artifact, model=ModelIdentity.of(model)) if allow_other_weights else artifact


def _read(folder: Path) -> Artifact:
    # The last one is there only if saving was interrupted.
    descriptions = [folder / n for n in (DESCRIPTION_FILE, COMING_FILE) if (folder / n).exists()]
    if not descriptions or not (folder / TENSORS_FILE).exists():
        name = TENSORS_FILE if not (folder / TENSORS_FILE).exists() else DESCRIPTION_FILE
        raise InputError(f"{folder} holds no {name}; give the folder of a saved vector")
    corrupt = f"{folder / TENSORS_FILE} is truncated or was changed; save the vector again"
    tensors_hash = sha256_of(folder / TENSORS_FILE)
    for path in descriptions:
        signed = _description(path)
        if tensors_hash == signed.pop("tensors_sha256", None):
            break
    else:
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
    reader = _reader(signed["operation"])
    if reader is None:
        raise InputError(
            f"{folder} steers by {signed['operation']!r}, which this release cannot do; import the "
            "package that its method comes from"
        )
    names = [one.name for one in fields(Artifact) if one.name not in ("model", "chat")]
    common = {name: signed[name] for name in names} | {"chat": signed.get("chat")}
    return reader.from_saved(tensors, signed, {**common, "model": ModelIdentity(**signed["model"])})


def _description(path: Path) -> dict[str, Any]:
    try:
        signed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(signed, dict):
        raise InputError(f"{path} is no description of a vector; restore it")
    return signed


def _reader(operation: str) -> type[Artifact] | None:
    """The class that reads an operation: of this room, or else of a method, which load pyvene."""
    if operation not in _READERS:
        importlib.import_module("concept_das.steering.vector")
    if operation not in _READERS:  # by name, because methods are above this room
        importlib.import_module("concept_das.methods").all_methods()
    return _READERS.get(operation)


def _described(model: ModelIdentity) -> str:
    return f"{model.name} ({model.architecture}, weights {model.fingerprint[-8:]})"


def _hash_of(description: Mapping[str, Any]) -> str:
    # Through JSON and back, so that what was read hashes like what was written.
    text = json.dumps(json.loads(json.dumps(description)), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
