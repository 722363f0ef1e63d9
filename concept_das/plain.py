"""The training losses by pyvene, step by step as the paper writes them.

This is the reference: two forward passes per direction, nothing cached, every architecture that
pyvene can hook.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyvene as pv
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.chats import Batch
from concept_das.data import Direction, EncodedQuadruple, Interchange
from concept_das.methods import Method
from concept_das.scoring import collate_for, response_labels, stack_responses
from concept_das.sites import Site, capture
from interventions import DistributedInterchangeIntervention
from objectives.reduction import Reduction


class PyveneLosses:
    """Losses of one intervention at one site, computed through `pyvene.IntervenableModel`."""

    def __init__(
        self,
        model: PreTrainedModel,
        site: Site,
        intervention: DistributedInterchangeIntervention,
        method: Method,
        reduction: Reduction,
        pad_id: int,
    ) -> None:
        self.model = model
        self.site = site
        self.method = method
        self.reduction = reduction
        self.pad_id = pad_id
        self.intervenable = pv.IntervenableModel(
            {"component": site.component, "intervention": intervention}, model
        )

    def loss(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> Float[Tensor, ""]:
        """The method's loss of a batch in one direction, with its graph."""
        pairs: list[Interchange] = [getattr(row, direction) for row in rows]
        base = collate_for(self.model, [pair.base for pair in pairs], self.pad_id)
        source = collate_for(self.model, [pair.source for pair in pairs], self.pad_id)
        teacher_logits, source_states = self._teacher(source)
        student_logits, mask = stack_responses(self._student(base, source_states))
        labels = response_labels(base.rows, student_logits.device)
        teacher, _mask = stack_responses(teacher_logits)
        return self.method.loss(student_logits, teacher, labels, mask, self.reduction)

    @torch.no_grad()
    def _teacher(self, source: Batch) -> tuple[list[Tensor], Float[Tensor, "batch 1 dim"]]:
        """The untouched run: its response logits, and its hidden state at the source token."""
        with capture(self.model, self.site) as seen:
            logits = self.model(**source.model_inputs(), use_cache=False).logits
        index = torch.tensor(source.source_positions(), device=seen[0].device)
        states = seen[0][torch.arange(len(index), device=index.device), index]
        return _at_responses(logits, source), states.unsqueeze(1)

    def _student(self, base: Batch, source_states: Tensor) -> list[Tensor]:
        """The intervened run's response logits.

        Rows are right-padded and share the template prefix, so every row is intervened on at the
        same positions; those that fall on padding reach no logit (causal attention).
        """
        prefix = base.rows[0].prompt.prefix_length
        positions = list(range(prefix, base.input_ids.shape[1]))
        key = self.intervenable.sorted_keys[0]
        with _keeping_hooks(self.model):
            _, output = self.intervenable(
                base.model_inputs(),
                source_representations={key: source_states},
                unit_locations={"sources->base": (None, [[positions] * len(base.rows)])},
                use_cache=False,
            )
        return _at_responses(output.logits, base)


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


def _at_responses(logits: Tensor, batch: Batch) -> list[Tensor]:
    """Each row's logits at the positions that predict its response."""
    return [
        row_logits[row_mask.to(logits.device)]
        for row_logits, row_mask in zip(logits, batch.response_mask, strict=True)
    ]
