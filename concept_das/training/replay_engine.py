"""The training losses, without recomputing what never changes.

The model is frozen, so for each row and direction these are constants, computed once:

- the base's hidden states at the site,
- the source's hidden state at each site and the source token,
- the teacher's final hidden states at the response positions, and its logits where they fit.

A step interchanges the cached base states, runs only the blocks above the site
(`concept_das.models.replay`), and projects only response positions (`objectives.projected`). Rows
of several concepts may share a batch, each with its own directions.

`concept_das.training.pyvene_engine` computes the same losses and gradients by pyvene; tests hold
the two equal.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from concept_das.data.batches import by_token_budget
from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass, EditName
from concept_das.methods import TrainedMethod
from concept_das.models.blocks import Site, capture
from concept_das.models.logits import collate_for
from concept_das.models.replay import Replay, final_states
from concept_das.steering.positions import EVERYWHERE, Span
from concept_das.training.batch_loss import needs_no_source, spans, states_losses
from concept_das.training.state_cache import CacheBudget
from concept_das.training.teacher import Teacher
from objectives.divergences import LOG_ZERO
from objectives.projected import (
    ProjectedLoss,
    TokenLoss,
    cross_entropy_with_gradient,
    projected_teacher,
)
from objectives.projected import Teacher as TeacherLogits

# Logits made at a time, about six tensors of this size: few enough that memory does not grow with
# the vocabulary, enough tokens for the matrix products (85 of SmolLM2's 49k, 256 of Gemma's 256k).
CHUNK_LOGITS = {"cpu": 2**23, "mps": 2**24, "cuda": 2**26}


class ReplayLosses:
    """Losses of several concepts' interventions, replayed from cached hidden states.

    Args:
        sites: from the lowest block to the highest.
        interventions: for each concept and site, by the edit they make.
        runs: everything that losses will be asked for, with whatever factor.
        span: the tokens that are edited.
        batch_tokens: tokens of one forward pass while the cache is filled.
        teacher: in place of the model itself on the source.

    Raises:
        ReplayError: at construction, if the model cannot be replayed exactly.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[Sequence[Mapping[EditName, nn.Module]]],
        method: TrainedMethod,
        runs: Sequence[EditedPass],
        *,
        span: Span = EVERYWHERE,
        batch_tokens: int = 4096,
        budget: CacheBudget | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.model = model
        self.own_teacher = teacher
        self.interventions = interventions
        self.method = method
        self.span = span
        probe = [run.base for run in runs]
        self.replay = Replay(model, sites, probe, share_prefix=method.shares_prefix)
        texts = list(dict.fromkeys((run.base, run.source) for run in runs))
        self.entry = {text: i for i, text in enumerate(texts)}
        self.likelihoods: dict[Turn, float] = {}
        weight = self.replay.projection.weight
        self.head_device = weight.device  # another than the site's in a model over several devices
        device = next(sites[0].module(model).parameters()).device
        budget = budget or CacheBudget(device)
        self.chunk = max(1, CHUNK_LOGITS.get(device.type, 2**24) // weight.shape[0])
        self.loss = self._projected(method.objective.with_gradient)
        width = sites[0].width
        positions = [len(base.ids) - self.replay.shared for base, _ in texts]
        responses = [len(base.response) if method.objective.has_teacher else 0 for base, _ in texts]
        compares_states = method.objective.states is not None
        if compares_states:
            responses = [len(sites) * length for length in responses]
        self.base = budget.store("states at the site", positions, width, weight.dtype)
        self.source = budget.store(
            "states at the source tokens", [len(sites)] * len(texts), width, weight.dtype
        )
        logits_size = sum(responses) * weight.shape[0] * weight.dtype.itemsize
        self.keeps_logits = (
            method.objective.has_teacher
            and not compares_states
            # A teacher of the user's own has no states to make them of again.
            and (teacher is not None or device == budget.place(logits_size))
        )
        if self.keeps_logits:
            self.teacher = budget.store("teacher logits", responses, weight.shape[0], weight.dtype)
            self.normaliser = budget.store("their normalisers", responses, 1, torch.float32)
        else:
            self.teacher = budget.store("teacher states", responses, width, weight.dtype)
        longest = [max(len(turn.ids) for turn in text if turn is not None) for text in texts]
        groups = by_token_budget(longest, batch_tokens)
        for group in tqdm(groups, desc="cache", leave=False):
            self._fill([texts[i] for i in group])

    def token_losses(
        self, runs: Sequence[EditedPass], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """See `Losses`."""
        entries = [self.entry[run.base, run.source] for run in runs]
        sources = torch.stack([self.source.get(entry) for entry in entries], dim=1)
        factors = torch.tensor([run.factor for run in runs])
        users = list(spans([(part, run.edit) for part, run in zip(parts, runs, strict=True)]))
        turns = [run.base for run in runs]
        mask = self.span.mask(turns)

        edited: list[Tensor] = []

        def edit(index: int, hidden: Tensor) -> Tensor:
            moved = []
            for (part, name), rows in users:
                intervention = self.interventions[part][index][name]
                sourceless = needs_no_source(intervention)
                moved.append(
                    intervention(
                        hidden[rows],
                        None if sourceless else sources[index, rows].to(hidden.device),
                        row_factors=factors[rows],
                        position_mask=None if mask is None else mask[rows],
                    )
                )
            edited.append(torch.cat(moved))
            return edited[-1]

        states = [self.base.get(entry) for entry in entries]
        final = self.replay.responses(turns, states, edit)
        if self.method.objective.states is not None:
            return states_losses(
                self.method.objective.states,
                turns,
                edited,
                [self.teacher.get(entry) for entry in entries],
            )
        hidden = torch.cat(final).to(self.head_device)
        labels = torch.tensor([token for turn in turns for token in turn.response])
        teacher = self._teacher(entries) if self.method.objective.has_teacher else None
        values = self.loss(hidden, teacher, labels.to(self.head_device))
        return list(values.split([len(turn.response) for turn in turns]))

    @torch.no_grad()
    def log_likelihood(self, turn: Turn) -> float:
        """Log-probability of a turn's response in the untouched model; computed once."""
        if turn not in self.likelihoods:
            (hidden,) = self.replay.responses([turn], list(self.replay.states([turn])))
            hidden = hidden.to(self.head_device)
            labels = torch.tensor(turn.response, device=self.head_device)
            loss = self.loss  # methods that ask for this have no other
            if self.method.objective.has_teacher:
                loss = self._projected(cross_entropy_with_gradient)
            self.likelihoods[turn] = -float(loss(hidden, None, labels).sum())
        return self.likelihoods[turn]

    def _projected(self, token_loss: TokenLoss) -> ProjectedLoss:
        return ProjectedLoss(self.replay.projection, token_loss, self.chunk)

    def _teacher(self, entries: Sequence[int]) -> TeacherLogits:
        """The teacher of several runs, laid end to end."""
        if not self.keeps_logits:
            states = torch.cat([self.teacher.get(entry) for entry in entries])
            return projected_teacher(states.to(self.head_device), self.replay.projection)
        normaliser = torch.cat([self.normaliser.get(entry) for entry in entries])
        normaliser = normaliser.to(self.head_device)

        def write(part: slice, out: Tensor, _scratch: Tensor) -> None:
            self.teacher.copy_to(out, entries, part)
            out.sub_(normaliser[part]).clamp_min_(LOG_ZERO)

        return write

    @torch.no_grad()
    def _fill(self, texts: Sequence[tuple[Turn, Turn | None]]) -> None:
        """Compute the constants of some texts."""
        for (base, source), states in zip(
            texts, self.replay.states([base for base, _ in texts]), strict=True
        ):
            self.base.put(self.entry[base, source], states)
        with_source = [(base, source) for base, source in texts if source is not None]
        if not with_source:
            return
        batch = collate_for(self.model, [source for _, source in with_source])
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(self.model, s)) for s in self.replay.sites]
            final = final_states(self.model, batch)
        where = batch.source_positions()
        own = None
        if self.own_teacher is not None:
            own = self.own_teacher.of_batch(batch, self.replay.projection.weight.shape[0])
        for row, text in enumerate(with_source):
            entry = self.entry[text]
            at_sites = [hidden[row, where[row]].cpu() for (hidden,) in seen]
            self.source.put(entry, torch.stack(at_sites))
            if self.method.objective.states is not None:
                mask = batch.response_mask[row].to(final.device)
                self.teacher.put(entry, torch.cat([hidden[row, mask].cpu() for (hidden,) in seen]))
            elif self.method.objective.has_teacher:
                of_row = final[row] if own is None else own[row]
                teacher = of_row[batch.response_mask[row].to(of_row.device)]
                if self.keeps_logits:
                    teacher = self.replay.projection.logits(teacher) if own is None else teacher
                    normaliser = teacher.float().logsumexp(dim=-1, keepdim=True)
                    self.normaliser.put(entry, normaliser)
                self.teacher.put(entry, teacher)
