"""The training losses by pyvene, step by step as the paper writes them.

This is the reference: two forward passes per direction, nothing cached, every architecture that
pyvene can hook.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pyvene as pv
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.chats import Batch
from concept_das.data import Interchange
from concept_das.methods import Method
from concept_das.scoring import collate_for
from concept_das.sites import Site, capture
from interventions import DistributedInterchangeIntervention


class PyveneLosses:
    """Losses of one intervention per site, computed through `pyvene.IntervenableModel`."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[DistributedInterchangeIntervention],
        method: Method,
        pad_id: int,
    ) -> None:
        self.model = model
        self.sites = list(sites)
        self.interventions = list(interventions)
        self.method = method
        self.pad_id = pad_id
        self.intervenable = pv.IntervenableModel(
            [
                {"component": site.component, "intervention": intervention}
                for site, intervention in zip(sites, interventions, strict=True)
            ],
            model,
        )

    def token_losses(
        self, pairs: Sequence[Interchange], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """One loss per response token of each pair, with its graph to the directions.

        Args:
            parts: which concept's directions each pair uses.
        """
        base = collate_for(self.model, [pair.base for pair in pairs], self.pad_id)
        source = collate_for(self.model, [pair.source for pair in pairs], self.pad_id)
        teacher, source_states = self._teacher(source)
        student = self._student(base, source_states, parts)
        labels = torch.tensor([token for pair in pairs for token in pair.base.response])
        values = self.method.token_loss(student, teacher.detach(), labels.to(student.device))
        return list(values.split([len(pair.base.response) for pair in pairs]))

    @torch.no_grad()
    def _teacher(self, source: Batch) -> tuple[Tensor, list[Float[Tensor, "batch 1 dim"]]]:
        """The untouched run: its response logits, and its states at the source token."""
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(self.model, site)) for site in self.sites]
            logits = self.model(**source.model_inputs(), use_cache=False).logits
        where = torch.tensor(source.source_positions())
        rows = torch.arange(len(where))
        states = [hidden[rows, where].unsqueeze(1) for (hidden,) in seen]
        return logits[source.response_mask.to(logits.device)], states

    def _student(
        self, base: Batch, source_states: Sequence[Tensor], parts: Sequence[int]
    ) -> Float[Tensor, "tokens vocab"]:
        """The intervened run's response logits.

        Rows are right-padded and share the template prefix, so every row is intervened on at the
        same positions; those that fall on padding reach no logit (causal attention).
        """
        prefix = base.rows[0].prompt.prefix_length
        positions = list(range(prefix, base.input_ids.shape[1]))
        keys = self.intervenable.sorted_keys
        index = [self._index_of(self.intervenable.interventions[key]) for key in keys]
        with _keeping_hooks(self.model):
            _, output = self.intervenable(
                base.model_inputs(),
                source_representations={
                    key: source_states[i] for key, i in zip(keys, index, strict=True)
                },
                unit_locations={
                    "sources->base": (None, [[positions] * len(base.rows)] * len(keys))
                },
                subspaces=[subspaces_of(self.interventions[i], parts) for i in index],
                use_cache=False,
            )
        logits = output.logits
        assert isinstance(logits, Tensor)
        return logits[base.response_mask.to(logits.device)]

    def _index_of(self, found: object) -> int:
        """Which of our interventions pyvene keeps under a key; it orders them its own way."""
        held = found[0] if isinstance(found, (tuple, list)) else found
        return next(i for i, own in enumerate(self.interventions) if own is held)


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


def subspaces_of(
    intervention: DistributedInterchangeIntervention, parts: Sequence[int]
) -> list[list[int]] | None:
    """`parts` in pyvene's words; None for an intervention that holds one concept."""
    return None if intervention.subspace_partition is None else [[part] for part in parts]
