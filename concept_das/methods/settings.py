"""The hyper-parameters of training."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from concept_das.errors import InputError
from objectives import REDUCTIONS
from objectives.names import Reduction


@dataclass(frozen=True)
class TrainingConfig:
    """Hyper-parameters. The defaults are CDAS's, the paper's for Gemma-2-2B-it on AxBench.

    Every method has its own: `find_method("reps").config(epochs=3)` gives RePS's, epochs excepted.

    Attributes:
        method: name of the objective; `concept-das methods` lists them.
        rank: number of directions (1 in the paper); rank of LoReFT and LoRA.
        layers: blocks to act at, 0-based, or `spread` for eight over the model's depth; empty for
            the one that is given as the layer.
        learning_rate: AdamW, decayed linearly to 0 without warm-up (0.04; the release's configs use
            0.02 to 0.08 depending on the model).
        epochs: passes over the training rows (18).
        batch_size: quadruples per step; each is used in both directions (8).
        max_response_tokens: responses are cut to this many tokens (128).
        gradient_clip: largest gradient norm (1.0).
        weight_decay: AdamW's (0).
        reduction: `sequence` averages over each response's tokens first, as the paper writes it;
            `token` pools the batch's tokens, as the authors' code does.
        seed: of the initial direction and of the order of rows (42).
        positions: tokens to edit, in training and steering alike: `all`, `prompt`, or the first and
            last tokens of the prompt, such as `p2+s2`; the method's own if not given.
        factor_learning_rate: in place of the learning rate, of factors that are learned (10).
        means: of DiffMean, the tokens whose hidden states are averaged: `all` of prompt and
            response (AxBench), or the `source_token` of the two prompts, as usual for the refusal
            direction (Arditi et al., arXiv 2406.11717).
        suppression_prompts: of RePS, the prompts at which the neutral response is to win: those
            that ask for the `concept`, or the `neutral` ones (as in the CDAS paper's release).
        patience: stop after this many epochs without a better held-out loss and keep the best
            direction; 0 trains all epochs and keeps the last.
    """

    method: str = "cdas"
    rank: int = 1
    layers: tuple[int, ...] | Literal["spread"] = ()
    learning_rate: float = 0.04
    epochs: int = 18
    batch_size: int = 8
    max_response_tokens: int = 128
    gradient_clip: float = 1.0
    weight_decay: float = 0.0
    reduction: Reduction = "sequence"
    seed: int = 42
    patience: int = 0
    positions: str | None = None
    factor_learning_rate: float = 10.0
    means: Literal["all", "source_token"] = "all"
    suppression_prompts: Literal["concept", "neutral"] = "concept"

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) and self.layers != "spread":
            raise InputError(f"layers is {self.layers!r}; give numbers of blocks, or spread")
        for name, known in (
            ("reduction", REDUCTIONS),
            ("means", ("all", "source_token")),
            ("suppression_prompts", ("concept", "neutral")),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}"
                )
        for name in ("rank", "epochs", "batch_size", "max_response_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("patience", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("learning_rate", "gradient_clip", "factor_learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")

    def record(self) -> dict[str, Any]:
        """The hyper-parameters as saved vectors and progress hold them.

        Those that came after the first release are left out at their defaults, so that what was
        saved before still reads as the same.
        """
        later = ("positions", "factor_learning_rate", "means", "suppression_prompts")
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in vars(self).items()
            if name not in later or value != defaults[name]
        }


# Hyper-parameters by method, or under `all` for every method; a method's own go first.
Changes = Mapping[str, Mapping[str, Any]]


def with_changes(config: TrainingConfig, changes: Changes) -> TrainingConfig:
    """The hyper-parameters with those of `changes` in their place.

    Raises:
        InputError: if a change has no such name or value.
    """
    changed = {**changes.get("all", {}), **changes.get(config.method, {})}
    known = {field.name for field in fields(TrainingConfig)} - {"method", "seed"}
    for option, value in changed.items():
        if option not in known:
            raise InputError(
                f"changes for {config.method} name {option!r}; choose from "
                f"{', '.join(sorted(known))}"
            )
        if isinstance(value, list):
            changed[option] = tuple(value)
    try:
        return replace(config, **changed)
    except TypeError as error:
        raise InputError(
            f"changes for {config.method} hold a value of the wrong kind: {error}"
        ) from error


def check_changes(changes: Changes, methods: Collection[str]) -> None:
    """Make sure that changes are of methods that are run.

    Raises:
        InputError: naming one that is not.
    """
    unknown = sorted(changes.keys() - {"all"} - set(methods))
    if unknown:
        raise InputError(
            f"changes name {unknown[0]!r}, which is not among the methods; those are "
            f"{', '.join(methods)}"
        )
