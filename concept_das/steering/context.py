"""Steer any Hugging Face forward or generate call inside a `with` block.

    with steer(model, vector, direction="elicit", multiplier=1.5):
        ids = model.generate(**inputs, max_new_tokens=100)

`vector` is the artifact of any method (`load_vector`). The edit is a forward hook on its block, or
on the modules that an adapter adapts. It works with the KV cache on or off, on left- or
right-padded batches, with streaming, sampling and several returned sequences, and it is gone when
the block is left, also after an exception. Do not run a pyvene call inside the block: pyvene
removes every forward hook of the model.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from concept_das.errors import InputError
from concept_das.models.loading import LoadedModel, model_of
from concept_das.steering.artifact import Artifact
from concept_das.steering.edits import BatchEdits, Rows, SiteEdit
from concept_das.steering.entries import (
    Entry,
    Steering,
    Together,
    check_in_time,
    parts_of,
    prefix_of,
)
from concept_das.steering.positions import EVERYWHERE, _PositionSelection, parse_positions
from concept_das.words import Direction, Rule

__all__ = ["SiteEdit", "Steering", "Together", "check_steering", "steer", "steer_rows"]


@contextmanager
def steer(
    model: PreTrainedModel | LoadedModel,
    vector: Entry | Sequence[Entry | None],
    *,
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
    positions: str = "all",
    prefix_length: int | None = None,
    prompt_lengths: Sequence[int] | None = None,
    allow_other_weights: bool = False,
) -> Iterator[None]:
    """Apply a vector, or one per batch row, to every forward pass inside the block.

    Args:
        model: the model the vector belongs to.
        vector: one vector for all rows, or several (`Together`); or one entry per row of the batch,
            None to leave a row alone. A call that returns several sequences per prompt repeats the
            entries.
        direction, multiplier, rule: strength of bare vectors; see `SteeringVector.target`.
        positions: `all` steers the prompt (after the template prefix) and every new token, as the
            paper does; `prompt` only the prompt; `generated` only what comes after it; `p2+s2` the
            first two and the last two tokens of the prompt. A vector that was trained at fewer
            positions is applied at those of them that it was trained at.
        prefix_length: number of leading tokens of each row to protect; by default the vector's own,
            the template prefix it was trained with.
        prompt_lengths: tokens of each row's prompt, padding not counted; needed for positions
            other than `all`, the vector's own included, when the model is called directly and not
            through `generate`.
        allow_other_weights: steer another fine-tune of the vector's model too, with a warning; see
            `Artifact.check_model`.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
        InputError: on unknown modes, rows that do not fit the batch, or what steers with text.
    """
    model = model_of(model)
    strength = (direction, multiplier, rule)
    entries = [vector] if isinstance(vector, Entry) else list(vector)
    if strength != ("elicit", 1.0, "paper") and not any(isinstance(e, Artifact) for e in entries):
        raise InputError(
            "direction, multiplier and rule are of bare vectors; put them into each Steering"
        )
    rows = [parts_of(entry, *strength) for entry in entries]
    check_steering(model, rows, positions, allow_other_weights, prefix_length)
    if any(part.vector.is_text for row in rows for part in row):
        raise InputError(
            "a steering prompt is put into the text and not into the model; call "
            "generate_responses, or give the model what Steering.prompt returns"
        )
    with steer_rows(model, rows, positions, prefix_length, prompt_lengths):
        yield


@contextmanager
def steer_rows(
    model: PreTrainedModel,
    rows: Rows,
    positions: str = "all",
    prefix_length: int | None = None,
    prompt_lengths: Sequence[int] | None = None,
) -> Iterator[None]:
    """The same for what `check_steering` has passed: for each row, all that steers it."""
    batch = BatchEdits(model, rows)
    selection = _PositionSelection(
        positions,
        [
            0 if not row else prefix_of(row) if prefix_length is None else prefix_length
            for row in rows
        ],
        prompt_lengths,
        needs_ends=bool(batch.conditions or batch.spans - {EVERYWHERE}),
    )
    with ExitStack() as stack:
        # A compiled forward was made without the hooks, and would not be steered.
        stack.enter_context(_uncompiled())
        stack.enter_context(selection.watching(model))
        edits: Counter[nn.Module] = Counter()
        for module, hook in batch.hooks(selection):
            stack.callback(module.register_forward_hook(hook).remove)
            if module not in edits:
                edits[module] = 0
                stack.callback(module.register_forward_hook(partial(_count, edits)).remove)
        yield
        if edits and min(edits.values()) < selection.passes:
            raise InputError(
                f"the model ran {selection.passes} times and was steered {min(edits.values())} "
                "times; do not compile, quantise or wrap the model's blocks inside the block"
            )


def _count(edits: "Counter[nn.Module]", module: nn.Module, *_: Any) -> None:
    edits[module] += 1


def _uncompiled() -> AbstractContextManager[Any]:
    """Run what `torch.compile` made as plain Python inside the block.

    Torch before 2.6 cannot, so there a compiled model must not be steered.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")


def check_steering(
    model: PreTrainedModel,
    rows: Rows,
    positions: str,
    allow_other_weights: bool = False,
    prefix_length: int | None = None,
) -> None:
    """Make sure, before any work, that rows can be steered.

    Args:
        rows: for each row, all that steers it; see `parts_of`.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
        InputError: on unknown positions, directions or rules, vectors on one row that protect
            different prefixes where `prefix_length` does not say which, or a condition that is not
            known in time.
    """
    parse_positions(positions)
    used = [part for row in rows for part in row]
    # Describing the model takes longer than all the rest, and many vectors are of one model.
    vectors = [vector for part in used for vector in part.vectors]
    for vector in {vector.model.fingerprint: vector for vector in vectors}.values():
        vector.check_model(model, allow_other_weights=allow_other_weights)
    for part in used:
        part.check()
    for row in rows:
        check_in_time(row)
        if prefix_length is None:
            prefix_of(row)
