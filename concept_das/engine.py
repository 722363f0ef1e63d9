"""The training losses, without recomputing what never changes.

The model is frozen, so for each row and direction these are constants, computed once:

- the base's hidden states at the site,
- the source's hidden state at the site and the source token,
- the teacher's final hidden states at the response positions.

A step interchanges the cached base states, runs only the blocks above the site, and projects only
response positions (`objectives.projected`). The template prefix is never intervened on and is the
same for all rows: its keys and values are computed once, too.

The blocks above the site are run by the model's own forward, with the blocks up to the site made
to pass through, so masks, rotary embeddings, sliding windows and norms are the model's. A few rows
are compared with the untouched model first; where they differ, `ReplayError` is raised and training
falls back to pyvene (`concept_das.plain`). This path equals that one: same loss, same gradient.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel

from concept_das.chats import Batch, Turn
from concept_das.data import DIRECTIONS, Direction, EncodedQuadruple, Interchange
from concept_das.methods import Method
from concept_das.scoring import batches, collate_for, stack_responses
from concept_das.sites import Site, capture, decoder_of, hidden_states_at
from interventions import DistributedInterchangeIntervention
from objectives import reduce_tokens
from objectives.projected import Projection, projected_loss
from objectives.reduction import Reduction

log = logging.getLogger(__name__)


class ReplayError(Exception):
    """The model's upper blocks cannot be replayed with the same result."""


@dataclass(frozen=True)
class Constants:
    """What never changes about one direction of one row.

    Attributes:
        base: `[positions, dim]` hidden states at the site, from the shared prefix's end on, in the
            model's precision.
        source: `[dim]` hidden state at the source token.
        teacher: `[response, dim]` final hidden states that predict the response.
    """

    base: Float[Tensor, "positions dim"]
    source: Float[Tensor, "dim"]
    teacher: Float[Tensor, "response dim"]


class ReplayLosses:
    """Losses of one intervention at one site, replayed from cached hidden states.

    Raises:
        ReplayError: at construction, if the model cannot be replayed exactly.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        site: Site,
        intervention: DistributedInterchangeIntervention,
        method: Method,
        reduction: Reduction,
        pad_id: int,
        rows: Sequence[EncodedQuadruple],
        *,
        chunk: int = 64,
    ) -> None:
        self.model = model
        self.site = site
        self.intervention = intervention
        self.method = method
        self.reduction: Reduction = reduction
        self.pad_id = pad_id
        self.chunk = chunk
        self.projection = projection_of(model)
        self.constants: dict[Interchange, Constants] = {}
        self.as_tensor = _blocks_return_tensors(model, site, rows[0].elicit.base, pad_id)
        try:
            self.prefix = _PrefixCache(model, rows[0].elicit.base)
            self._check(rows[:2])
        except ReplayError:  # some models of transformers 4 take no plain cache
            self.prefix = _PrefixCache(model, None)
            self.constants.clear()
            self._check(rows[:2])
        # In an order that no interruption changes: how rows are batched shows in the last digits.
        pairs = [getattr(row, direction) for direction in DIRECTIONS for row in rows]
        for part in tqdm(list(batches(pairs, 8)), desc="cache", leave=False):
            self._constants_of(part)

    def loss(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> Float[Tensor, ""]:
        """The method's loss of a batch in one direction, with its graph."""
        pairs: list[Interchange] = [getattr(row, direction) for row in rows]
        constants = self._constants_of(pairs)
        base = nn.utils.rnn.pad_sequence([c.base for c in constants], batch_first=True)
        source = torch.stack([c.source for c in constants])
        hidden = self._replay(self._interchanged(base, source, pairs), pairs)
        student = torch.cat(
            [row[where] for row, where in zip(hidden, self._responses(pairs), strict=True)]
        )
        responses = [torch.tensor(pair.base.response, device=student.device) for pair in pairs]
        values = projected_loss(
            student,
            torch.cat([c.teacher for c in constants]).to(student.device),
            torch.cat(responses),
            self.projection,
            self.method.token_loss,
            self.chunk,
        )
        padded, mask = stack_responses(values.split([len(response) for response in responses]))
        return reduce_tokens(padded, mask, self.reduction)

    def _interchanged(
        self,
        base: Float[Tensor, "batch positions dim"],
        source: Float[Tensor, "batch dim"],
        pairs: Sequence[Interchange],
    ) -> Float[Tensor, "batch positions dim"]:
        """The base with its coordinates swapped, from the template prefix's end on."""
        protected = pairs[0].base.prompt.prefix_length - self.prefix.length
        moved = self.intervention(base[:, protected:], source)
        return torch.cat([base[:, :protected], moved], dim=1) if protected else moved

    def _constants_of(self, pairs: Sequence[Interchange]) -> list[Constants]:
        """Cached constants; those of new rows are computed together first."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.constants]
        if new:
            self.constants.update(zip(new, self._compute(new), strict=True))
        return [self.constants[pair] for pair in pairs]

    @torch.no_grad()
    def _compute(self, pairs: Sequence[Interchange]) -> Iterator[Constants]:
        base = collate_for(self.model, [pair.base for pair in pairs], self.pad_id)
        base_states = hidden_states_at(self.model, self.site, **base.model_inputs())
        source = collate_for(self.model, [pair.source for pair in pairs], self.pad_id)
        with capture(self.model, self.site) as seen:
            final = final_states(self.model, source)
        where = source.source_positions()
        for i, pair in enumerate(pairs):
            yield Constants(
                base=base_states[i, self.prefix.length : len(pair.base.ids)].clone(),
                source=seen[0][i, where[i]].clone(),
                teacher=final[i][source.response_mask[i].to(final.device)].clone(),
            )

    def _replay(
        self, states: Float[Tensor, "batch positions dim"], pairs: Sequence[Interchange]
    ) -> Float[Tensor, "batch positions dim"]:
        """Final hidden states, from the site's states after the prefix."""
        prefix = self.prefix.length
        lengths = torch.tensor([len(pair.base.ids) for pair in pairs], device=states.device)
        positions = torch.arange(prefix, prefix + states.shape[1], device=states.device)
        mask = torch.arange(prefix + states.shape[1], device=states.device) < lengths.unsqueeze(1)
        with _starting_above(self.model, self.site, states, self.as_tensor):
            output = decoder_of(self.model)(
                inputs_embeds=states.detach(),
                attention_mask=mask.long(),
                position_ids=positions.expand(len(pairs), -1),
                past_key_values=self.prefix.expanded(len(pairs)),
                use_cache=False,
            )
        hidden = output.last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def _responses(self, pairs: Sequence[Interchange]) -> list[slice]:
        """Where the replayed states predict each row's response."""
        slices = []
        for pair in pairs:
            start = len(pair.base.prompt.ids) - 1 - self.prefix.length
            slices.append(slice(start, start + len(pair.base.response)))
        return slices

    @torch.no_grad()
    def _check(self, probe: Sequence[EncodedQuadruple]) -> None:
        """Replay a few rows without an intervention and compare with the untouched model."""
        pairs = [row.elicit for row in probe]
        batch = collate_for(self.model, [pair.base for pair in pairs], self.pad_id)
        expected = self.model(**batch.model_inputs(), use_cache=False).logits
        constants = self._constants_of(pairs)
        states = nn.utils.rnn.pad_sequence([c.base for c in constants], batch_first=True)
        try:
            hidden = self._replay(states, pairs)
        except Exception as error:  # whatever an unknown architecture raises
            raise ReplayError(f"{type(error).__name__}: {error}") from error
        for i, (pair, where) in enumerate(zip(pairs, self._responses(pairs), strict=True)):
            found = self.projection.logits(hidden[i][where]).float()
            wanted = expected[i][batch.response_mask[i].to(expected.device)].float()
            tolerance = 1e-3 if self.projection.weight.dtype == torch.float32 else 0.1
            error_size = float((found - wanted.to(found.device)).abs().max())
            if not error_size <= tolerance * max(1.0, float(wanted.abs().max())):
                raise ReplayError(
                    f"logits differ by {error_size:.2g} on {len(pair.base.ids)} tokens"
                )


def _blocks_return_tensors(model: PreTrainedModel, site: Site, turn: Turn, pad_id: int) -> bool:
    outputs: list[Any] = []
    handle = site.module(model).register_forward_hook(lambda _m, _a, output: outputs.append(output))
    try:
        with torch.no_grad():
            decoder_of(model)(**collate_for(model, [turn], pad_id).model_inputs(), use_cache=False)
    finally:
        handle.remove()
    return isinstance(outputs[0], Tensor)


class _PrefixCache:
    """Keys and values of the template prefix, shared by all rows.

    Attributes:
        length: tokens of the prefix; 0 if it is not shared, and then replayed with every row.
    """

    def __init__(self, model: PreTrainedModel, turn: Turn | None) -> None:
        self.length = 0 if turn is None else turn.prompt.prefix_length
        self.layers: list[tuple[Tensor, Tensor]] = []
        if turn is None or self.length == 0:
            return
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor([turn.prompt.ids[: self.length]], device=device)
        cache = DynamicCache()
        try:
            with torch.no_grad():
                decoder_of(model)(input_ids=ids, past_key_values=cache, use_cache=True)
            self.layers = list(_layers_of(cache))
        except Exception as error:  # whatever an unknown architecture raises
            raise ReplayError(f"{type(error).__name__}: {error}") from error

    def expanded(self, batch: int) -> DynamicCache | None:
        """A fresh cache that holds the prefix for every row of a batch."""
        if not self.layers:
            return None
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), index)
        return cache


def _layers_of(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values per block; transformers renamed where they are kept."""
    if hasattr(cache, "layers"):
        yield from ((layer.keys, layer.values) for layer in cache.layers)
    else:
        yield from zip(cache.key_cache, cache.value_cache, strict=True)


def final_states(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "batch positions dim"]:
    """Hidden states after the final norm."""
    hidden = decoder_of(model)(**batch.model_inputs(), use_cache=False).last_hidden_state
    assert isinstance(hidden, Tensor)
    return hidden


def projection_of(model: PreTrainedModel) -> Projection:
    """The model's head as the losses need it.

    Raises:
        ReplayError: if the head is not a plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ReplayError(f"the head is a {type(head).__name__}")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    return Projection(
        head.weight, head.bias, scale, getattr(config, "final_logit_softcapping", None)
    )


@contextmanager
def _starting_above(
    model: PreTrainedModel, site: Site, states: Tensor, as_tensor: bool
) -> Iterator[None]:
    """Make the blocks up to the site hand on `states` instead of computing anything.

    Args:
        as_tensor: whether a block returns its hidden states as a tensor (transformers 5) or as the
            first item of a tuple.
    """
    blocks = site.blocks_below(model)
    passed = states if as_tensor else (states,)

    def skip(*_args: Any, **_kwargs: Any) -> Any:
        return passed

    wrapped = [vars(block).get("forward") for block in blocks]  # accelerate puts its own there
    for block in blocks:
        block.forward = skip
    try:
        yield
    finally:
        for block, own in zip(blocks, wrapped, strict=True):
            del block.forward
            if own is not None:
                block.forward = own
