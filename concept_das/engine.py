"""The training losses, without recomputing what never changes.

The model is frozen, so for each row and direction these are constants, computed once:

- the base's hidden states at the site,
- the source's hidden state at each site and the source token,
- the teacher's final hidden states at the response positions, and its logits where they fit.

A step interchanges the cached base states, runs only the blocks above the site
(`concept_das.replay`), and projects only response positions (`objectives.projected`). Rows of
several concepts may share a batch, each with its own directions.

`concept_das.plain` computes the same losses and gradients by pyvene; tests hold the two equal.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from concept_das.cache import CacheBudget
from concept_das.data import Interchange
from concept_das.losses import spans
from concept_das.methods import Method
from concept_das.packing import by_token_budget
from concept_das.replay import Replay, final_states
from concept_das.scoring import collate_for
from concept_das.sites import Site, capture
from interventions import DistributedInterchangeIntervention
from objectives import log_probabilities
from objectives.projected import Teacher, projected_loss, projected_teacher

# Logits made at a time, about six tensors of this size: few enough that memory does not grow with
# the vocabulary, enough tokens for the matrix products (85 of SmolLM2's 49k, 256 of Gemma's 256k).
CHUNK_LOGITS = {"cpu": 2**22, "mps": 2**24, "cuda": 2**26}


class ReplayLosses:
    """Losses of several concepts' interventions, replayed from cached hidden states.

    Args:
        sites: from the lowest block to the highest.
        interventions: for each concept, one per site.
        pairs: everything that losses will be asked for.
        batch_tokens: tokens of one forward pass while the cache is filled.

    Raises:
        ReplayError: at construction, if the model cannot be replayed exactly.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[Sequence[DistributedInterchangeIntervention]],
        method: Method,
        pad_id: int,
        pairs: Sequence[Interchange],
        *,
        batch_tokens: int = 4096,
        budget: CacheBudget | None = None,
    ) -> None:
        self.model = model
        self.interventions = interventions
        self.method = method
        self.replay = Replay(model, sites, pad_id, [pair.base for pair in pairs[:2]])
        pairs = list(dict.fromkeys(pairs))
        self.entry = {pair: i for i, pair in enumerate(pairs)}
        weight = self.replay.projection.weight
        device = next(sites[0].module(model).parameters()).device
        budget = budget or CacheBudget(device)
        self.chunk = max(1, CHUNK_LOGITS.get(device.type, 2**24) // weight.shape[0])
        width = sites[0].width
        positions = [len(pair.base.ids) - self.replay.shared for pair in pairs]
        responses = [len(pair.base.response) for pair in pairs]
        self.base = budget.store("states at the site", positions, width, weight.dtype)
        self.source = budget.store(
            "states at the source tokens", [len(sites)] * len(pairs), width, weight.dtype
        )
        self.keeps_logits = method.has_teacher and device == budget.place(
            sum(responses) * weight.shape[0] * weight.dtype.itemsize
        )
        if self.keeps_logits:
            self.teacher = budget.store("teacher logits", responses, weight.shape[0], weight.dtype)
        else:
            self.teacher = budget.store("teacher states", responses, width, weight.dtype)
        longest = [max(len(pair.base.ids), len(pair.source.ids)) for pair in pairs]
        groups = by_token_budget(longest, batch_tokens)
        for group in tqdm(groups, desc="cache", leave=False):
            self._fill([pairs[i] for i in group])

    def token_losses(
        self, pairs: Sequence[Interchange], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """One loss per response token of each pair, with its graph to the directions.

        Args:
            parts: which concept's interventions each pair uses; best those of a concept together.
        """
        entries = [self.entry[pair] for pair in pairs]
        sources = torch.stack([self.source.get(entry) for entry in entries], dim=1)

        def interchange(index: int, hidden: Tensor) -> Tensor:
            source = sources[index].to(hidden.device)
            moved = [
                self.interventions[part][index](hidden[rows], source[rows])
                for part, rows in spans(parts)
            ]
            return torch.cat(moved)

        turns = [pair.base for pair in pairs]
        states = [self.base.get(entry) for entry in entries]
        hidden = torch.cat(self.replay.responses(turns, states, interchange))
        lengths = [len(turn.response) for turn in turns]
        labels = torch.tensor([token for turn in turns for token in turn.response])
        values = projected_loss(
            hidden,
            self._teacher(entries, hidden.device) if self.method.has_teacher else None,
            labels.to(hidden.device),
            self.replay.projection,
            self.method.token_loss_with_gradient,
            self.chunk,
        )
        return list(values.split(lengths))

    def _teacher(self, entries: Sequence[int], device: torch.device) -> Teacher:
        """The teacher of several pairs."""
        if not self.keeps_logits:
            states = torch.cat([self.teacher.get(entry) for entry in entries])
            return projected_teacher(states.to(device), self.replay.projection)
        logits = self.teacher
        index = torch.cat([torch.arange(*logits.starts[entry : entry + 2]) for entry in entries])
        index = index.to(logits.data.device)
        return lambda part: log_probabilities(logits.data[index[part]].to(device))

    @torch.no_grad()
    def _fill(self, pairs: Sequence[Interchange]) -> None:
        """Compute the constants of some pairs."""
        source = collate_for(self.model, [pair.source for pair in pairs], self.replay.pad_id)
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(self.model, s)) for s in self.replay.sites]
            final = final_states(self.model, source)
        where = source.source_positions()
        base = self.replay.states([pair.base for pair in pairs])
        for row, (pair, states) in enumerate(zip(pairs, base, strict=True)):
            entry = self.entry[pair]
            self.base.put(entry, states)
            at_sites = [hidden[row, where[row]].to(states.device) for (hidden,) in seen]
            self.source.put(entry, torch.stack(at_sites))
            teacher = final[row][source.response_mask[row].to(final.device)]
            if self.keeps_logits:
                teacher = self.replay.projection.logits(teacher)
            self.teacher.put(entry, teacher)
