"""Run only the blocks above a site, from hidden states that are already computed.

The upper blocks are run by the model's own forward, with the blocks up to the site made to pass
through, so masks, rotary embeddings, sliding windows and norms are the model's. The template prefix
is the same for all rows and never intervened on: its keys and values are computed once.

`Replay` compares a few rows with the untouched model first and raises `ReplayError` where they
differ, so no architecture is replayed on trust. Among them is the longest, beside shorter ones:
with dynamic NTK and LongRoPE a row depends on the longest of its batch once that is beyond the
original context, so that nothing computed in one batch may be used in another.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.batches import Batch
from concept_das.data.chat_format import Turn
from concept_das.models.blocks import Site, decoder_of, hidden_of, hidden_states_at, replace_hidden
from concept_das.models.logits import collate_for, response_logits
from concept_das.models.shared_prefix import KeysValues, cache_of, keys_values
from objectives.projected import Projection

# Root mean square of the error over that of the logits about their mean, by the head's precision.
# Measured on SmolLM2-135M, blocks 0 to 28, rows of 105 to 947 tokens, against each row alone: right
# replays reach 0.041 in bfloat16 and 2e-6 in float32; dynamic NTK and LongRoPE beyond the original
# context, 0.17 at least in either.
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_OF_OTHERS = 0.08

# (index of the site, its hidden states from the template prefix's end on) -> the edited ones.
Edit = Callable[[int, Float[Tensor, "batch positions dim"]], Float[Tensor, "batch positions dim"]]


class ReplayError(Exception):
    """The model's upper blocks cannot be replayed with the same result."""


class Replay:
    """The blocks above the lowest of some sites, as a function of that site's hidden states.

    Args:
        probe: every row that may be replayed, or so many that the longest and the shortest are
            among them.

    Attributes:
        sites: from the lowest block to the highest; edits may happen at each.
        projection: the model's head.
        shared: number of leading tokens whose keys and values are shared by all rows and which are
            not replayed; the template prefix, or 0 where the model takes no such cache or it is
            not to be shared.

    Raises:
        ReplayError: at construction, if a few rows come out otherwise than in the untouched model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        probe: Sequence[Turn],
        *,
        share_prefix: bool = True,
    ) -> None:
        if list(sites) != sorted(sites, key=lambda site: site.layer):
            raise ValueError("give the sites from the lowest block to the highest")
        self.model = model
        self.sites = list(sites)
        self.projection = projection_of(model)
        self.as_tensor = _blocks_return_tensors(model, sites[0], probe[0])
        self.prefix: KeysValues = []
        prefix = probe[0].prompt.ids[: probe[0].prompt.prefix_length]
        if share_prefix and prefix:
            try:
                self.prefix = keys_values(model, prefix)
                self._check(probe)
                return
            except Exception:  # some models of transformers 4 take no plain cache
                self.prefix = []
        self._check(probe)

    @property
    def shared(self) -> int:
        """Number of leading tokens that are shared; see the class."""
        return self.prefix[0][0].shape[-2] if self.prefix else 0

    @torch.no_grad()
    def states(self, turns: Sequence[Turn]) -> Iterator[Float[Tensor, "positions dim"]]:
        """Each row's untouched states at the lowest site, without the shared tokens."""
        batch = collate_for(self.model, turns)
        states = hidden_states_at(self.model, self.sites[0], **batch.model_inputs())
        for row, turn in zip(states, turns, strict=True):
            yield row[self.shared : len(turn.ids)]

    def responses(
        self,
        turns: Sequence[Turn],
        states: Sequence[Float[Tensor, "_ dim"]],
        edit: Edit | None = None,
    ) -> list[Float[Tensor, "_ dim"]]:
        """Final hidden states that predict each row's response.

        Args:
            states: the rows' states as `states` gives them; gradients flow through the edit only.
            edit: changes the sites' hidden states; none for an untouched run.
        """
        padded = nn.utils.rnn.pad_sequence(list(states), batch_first=True)
        protected = turns[0].prompt.prefix_length - self.shared
        with ExitStack() as stack:
            if edit is not None:
                edited = partial(_edit_behind, protected, edit)
                for index, site in enumerate(self.sites[1:], start=1):
                    hook = partial(_edit_output, edited, index)
                    stack.enter_context(site.module(self.model).register_forward_hook(hook))
                padded = edited(0, padded)
            hidden = self._above(turns, padded)
        found = []
        for row, turn in zip(hidden, turns, strict=True):
            start = len(turn.prompt.ids) - 1 - self.shared
            found.append(row[start : start + len(turn.response)])
        return found

    def _above(
        self, turns: Sequence[Turn], states: Float[Tensor, "batch positions dim"]
    ) -> Float[Tensor, "batch positions dim"]:
        """Final hidden states of every position."""
        shared, width = self.shared, states.shape[1]
        lengths = torch.tensor([len(turn.ids) for turn in turns], device=states.device)
        positions = torch.arange(shared, shared + width, device=states.device)
        mask = torch.arange(shared + width, device=states.device) < lengths.unsqueeze(1)
        with _starting_above(self.model, self.sites[0], states, self.as_tensor):
            output = decoder_of(self.model)(
                inputs_embeds=states.detach(),
                attention_mask=mask.long(),
                position_ids=positions.expand(len(turns), -1),
                past_key_values=cache_of(self.prefix, len(turns)),
                use_cache=False,
                return_dict=True,
            )
        hidden = output.last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    @torch.no_grad()
    def _check(self, probe: Sequence[Turn]) -> None:
        """Replay a few rows without an edit and compare with the untouched model."""
        by_length = sorted(probe, key=lambda turn: len(turn.ids))
        rows = list(dict.fromkeys([by_length[0], probe[0], by_length[-1]]))
        try:
            found = self.responses(rows, list(self.states(rows)))
        except Exception as error:  # whatever an unknown architecture raises
            raise ReplayError(f"{type(error).__name__}: {error}") from error
        tolerance = _TOLERANCE.get(self.projection.weight.dtype, _TOLERANCE_OF_OTHERS)
        for turn, hidden in zip(rows, found, strict=True):
            if not turn.response:
                continue
            (wanted,) = response_logits(self.model, collate_for(self.model, [turn]))
            wanted = wanted.float()
            logits = self.projection.logits(hidden).float().to(wanted.device)
            spread = (wanted - wanted.mean(dim=-1, keepdim=True)).square().mean().sqrt()
            error_size = float((logits - wanted).square().mean().sqrt() / spread.clamp(min=1e-9))
            if not error_size <= tolerance:
                raise ReplayError(
                    f"logits differ by {error_size:.2g} of their spread on {len(turn.ids)} tokens, "
                    f"in a batch of rows of {len(rows[0].ids)} to {len(rows[-1].ids)}"
                )


def final_states(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "batch positions dim"]:
    """Hidden states after the final norm, of the whole model."""
    output = decoder_of(model)(**batch.model_inputs(), use_cache=False, return_dict=True)
    hidden = output.last_hidden_state
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


def _blocks_return_tensors(model: PreTrainedModel, site: Site, turn: Turn) -> bool:
    outputs: list[Any] = []
    block = site.module(model)
    with torch.no_grad(), block.register_forward_hook(lambda *call: outputs.append(call[-1])):
        decoder_of(model)(**collate_for(model, [turn]).model_inputs(), use_cache=False)
    return isinstance(outputs[0], Tensor)


def _edit_behind(protected: int, edit: Edit, index: int, hidden: Tensor) -> Tensor:
    """Edit a site's hidden states behind the protected tokens."""
    moved = edit(index, hidden[:, protected:])
    return torch.cat([hidden[:, :protected], moved], dim=1) if protected else moved


def _edit_output(
    edit: Callable[[int, Tensor], Tensor], index: int, _module: nn.Module, _args: Any, output: Any
) -> Any:
    """Edit the hidden states in the output of a site's block, as a hook."""
    return replace_hidden(output, edit(index, hidden_of(output)))


@contextmanager
def _starting_above(
    model: PreTrainedModel, site: Site, states: Tensor, as_tensor: bool
) -> Iterator[None]:
    """Make the blocks up to the site hand on `states` instead of computing anything.

    Args:
        as_tensor: true if a block returns its hidden states as a tensor (transformers 5), false if
            as the first item of a tuple.
    """
    blocks = site.blocks_below(model)
    passed = states if as_tensor else (states,)
    wrapped = [vars(block).get("forward") for block in blocks]  # accelerate puts its own there
    for block in blocks:
        block.forward = lambda *_args, **_kwargs: passed
    try:
        yield
    finally:
        for block, own in zip(blocks, wrapped, strict=True):
            del block.forward
            if own is not None:
                block.forward = own
