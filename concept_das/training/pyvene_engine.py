"""The training losses by pyvene, step by step as the paper writes them.

This is the reference: two forward passes per direction, nothing cached, every architecture that
pyvene can hook.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.batches import Batch
from concept_das.data.chat_format import Turn
from concept_das.data.encoding import EditedPass, EditName
from concept_das.methods import TrainedMethod
from concept_das.models.blocks import Site, capture
from concept_das.models.logits import collate_for, response_logits
from concept_das.steering.positions import EVERYWHERE, Span
from concept_das.training.batch_loss import needs_no_source, spans, states_losses
from concept_das.training.teacher import Teacher
from interventions.backend import pyvene as pv
from objectives import token_cross_entropy


class PyveneLosses:
    """Losses of several concepts' interventions, computed through `pyvene.IntervenableModel`.

    Args:
        sites: from the lowest block to the highest.
        interventions: for each concept and site, by the edit they make.
        span: the tokens that are edited.
        teacher: in place of the model itself on the source.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[Sequence[Mapping[EditName, nn.Module]]],
        method: TrainedMethod,
        span: Span = EVERYWHERE,
        teacher: Teacher | None = None,
    ) -> None:
        self.model = model
        self.own_teacher = teacher
        self.sites = list(sites)
        self.method = method
        self.span = span
        self.likelihoods: dict[Turn, float] = {}
        self.intervenables = {
            (part, edit): _Intervenable(model, sites, [at_site[edit] for at_site in of_concept])
            for part, of_concept in enumerate(interventions)
            for edit in of_concept[0]
        }

    def token_losses(
        self, runs: Sequence[EditedPass], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """See `Losses`."""
        losses: list[Tensor] = []
        for key, rows in spans([(part, run.edit) for part, run in zip(parts, runs, strict=True)]):
            losses += self._losses_of(runs[rows], self.intervenables[key])
        return losses

    @torch.no_grad()
    def log_likelihood(self, turn: Turn) -> float:
        """Log-probability of a turn's response in the untouched model; computed once."""
        if turn not in self.likelihoods:
            (logits,) = response_logits(self.model, collate_for(self.model, [turn]))
            labels = torch.tensor(turn.response, device=logits.device)
            self.likelihoods[turn] = -float(token_cross_entropy(logits, labels).sum())
        return self.likelihoods[turn]

    def _losses_of(
        self, runs: Sequence[EditedPass], intervenable: "_Intervenable"
    ) -> Sequence[Float[Tensor, "_"]]:
        """Runs of one concept with the same edit."""
        base = collate_for(self.model, [run.base for run in runs])
        sources = [run.source for run in runs if run.source is not None]
        teacher, states = None, None
        if sources:
            teacher, states = self._teacher(collate_for(self.model, sources))
        factors = torch.tensor([run.factor for run in runs])
        mask = self.span.mask([run.base for run in runs])
        logits, edited = intervenable.run(base, states, factors, mask)
        if self.method.objective.states is not None:
            assert sources
            return states_losses(
                self.method.objective.states,
                [run.base for run in runs],
                edited,
                self._teacher_states(collate_for(self.model, sources)),
            )
        student = logits[base.response_mask.to(logits.device)]
        labels = torch.tensor([token for run in runs for token in run.base.response])
        values = self.method.objective.plain(
            student, student if teacher is None else teacher, labels.to(student.device)
        )
        return values.split([len(run.base.response) for run in runs])

    @torch.no_grad()
    def _teacher_states(self, source: Batch) -> list[Float[Tensor, "_ dim"]]:
        """The untouched run's states at every site that predict each row's response."""
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(self.model, site)) for site in self.sites]
            self.model(**source.model_inputs(), use_cache=False)
        masks = list(source.response_mask)
        return [
            torch.cat([hidden[row, mask.to(hidden.device)].cpu() for (hidden,) in seen])
            for row, mask in enumerate(masks)
        ]

    @torch.no_grad()
    def _teacher(self, source: Batch) -> tuple[Tensor, list[Float[Tensor, "batch 1 dim"]]]:
        """The untouched run: its (or another teacher's) response logits, and its source states."""
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(self.model, site)) for site in self.sites]
            logits = self.model(**source.model_inputs(), use_cache=False).logits
        where = torch.tensor(source.source_positions())
        rows = torch.arange(len(where))
        states = [hidden[rows, where].unsqueeze(1) for (hidden,) in seen]
        if self.own_teacher is not None:
            logits = self.own_teacher.of_batch(source, logits.shape[-1]).to(logits.device)
        return logits[source.response_mask.to(logits.device)], states


class _Intervenable:
    """One concept's interventions in a `pyvene.IntervenableModel`."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[nn.Module],
    ) -> None:
        self.model = model
        self.interventions = list(interventions)
        trainable = [p for one in interventions for p in one.parameters() if p.requires_grad]
        self.intervenable = pv.IntervenableModel(
            [
                {"component": site.component, "intervention": intervention}
                for site, intervention in zip(sites, interventions, strict=True)
            ],
            model,
        )
        for parameter in trainable:  # pyvene freezes all that is in the model, adapters too
            parameter.requires_grad_(True)
        # pyvene orders them its own way.
        held = [self.intervenable.interventions[key] for key in self.intervenable.sorted_keys]
        held = [h[0] if isinstance(h, (tuple, list)) else h for h in held]
        self.sourceless = needs_no_source(held[0])
        self.order = [[i is h for i in interventions].index(True) for h in held]

    def run(
        self,
        base: Batch,
        source_states: Sequence[Tensor] | None,
        factors: Float[Tensor, "batch"],
        mask: Bool[Tensor, "batch edited"] | None,
    ) -> tuple[Float[Tensor, "batch positions vocab"], list[Tensor]]:
        """The intervened run's logits, and its edited states at each site.

        Rows are right-padded and share the template prefix, so every row is intervened on at the
        same positions; those that fall on padding reach no logit (causal attention).

        Args:
            source_states: `[batch, 1, dim]` for each site; None for edits without a source.
            factors: one per row, for additions.
            mask: see `Span.mask`.
        """
        prefix = base.rows[0].prompt.prefix_length
        positions = list(range(prefix, base.input_ids.shape[1]))
        keys = self.intervenable.sorted_keys
        given = None
        if source_states is not None and not self.sourceless:
            given = {key: source_states[i] for key, i in zip(keys, self.order, strict=True)}
        edited: dict[int, Tensor] = {}
        with _keeping_hooks(self.model), ExitStack() as stack:
            for i, intervention in enumerate(self.interventions):
                keep = partial(_keep, edited, i)
                stack.enter_context(intervention.register_forward_hook(keep))
                if not self.sourceless and mask is not None:  # pyvene gives these no keywords
                    add = partial(_with_mask, mask)
                    hook = intervention.register_forward_pre_hook(add, with_kwargs=True)
                    stack.enter_context(hook)
            _, output = self.intervenable(
                base.model_inputs(),
                source_representations=given,
                unit_locations={
                    "sources->base": (None, [[positions] * len(base.rows)] * len(keys))
                },
                intervention_additional_kwargs={"row_factors": factors, "position_mask": mask},
                use_cache=False,
            )
        logits = output.logits
        assert isinstance(logits, Tensor)
        return logits, [edited[i] for i in range(len(self.interventions))]


def _with_mask(
    mask: Tensor, _module: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "position_mask": mask}


def _keep(edited: dict[int, Tensor], index: int, _module: nn.Module, _args: Any, out: Any) -> None:
    edited[index] = out


@contextmanager
def _keeping_hooks(model: nn.Module) -> Iterator[None]:
    """Put back the forward hooks that pyvene takes off the whole model.

    The user's own, and those by which transformers 5 collects `output_hidden_states`.
    """
    kept = [(m, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    try:
        yield
    finally:
        for module, hooks, pre_hooks in kept:
            module._forward_hooks.update(hooks)
            module._forward_pre_hooks.update(pre_hooks)
