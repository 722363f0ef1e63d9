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
from concept_das.losses import spans
from concept_das.methods import Method
from concept_das.scoring import collate_for
from concept_das.sites import Site, capture
from interventions import DistributedInterchangeIntervention


class PyveneLosses:
    """Losses of several concepts' interventions, computed through `pyvene.IntervenableModel`.

    Args:
        sites: from the lowest block to the highest.
        interventions: for each concept, one per site.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[Sequence[DistributedInterchangeIntervention]],
        method: Method,
        pad_id: int,
    ) -> None:
        self.model = model
        self.sites = list(sites)
        self.method = method
        self.pad_id = pad_id
        self.concepts = [_Intervenable(model, sites, of_concept) for of_concept in interventions]

    def token_losses(
        self, pairs: Sequence[Interchange], parts: Sequence[int]
    ) -> list[Float[Tensor, "_"]]:
        """One loss per response token of each pair, with its graph to the directions.

        Args:
            parts: which concept's interventions each pair uses; best those of a concept together.
        """
        losses: list[Tensor] = []
        for part, rows in spans(parts):
            losses += self._of_concept(pairs[rows], self.concepts[part])
        return losses

    def _of_concept(
        self, pairs: Sequence[Interchange], concept: "_Intervenable"
    ) -> Sequence[Float[Tensor, "_"]]:
        base = collate_for(self.model, [pair.base for pair in pairs], self.pad_id)
        source = collate_for(self.model, [pair.source for pair in pairs], self.pad_id)
        teacher, source_states = self._teacher(source)
        student = concept.logits(base, source_states)[base.response_mask.to(teacher.device)]
        labels = torch.tensor([token for pair in pairs for token in pair.base.response])
        values = self.method.token_loss(student, teacher.detach(), labels.to(student.device))
        return values.split([len(pair.base.response) for pair in pairs])

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


class _Intervenable:
    """One concept's interventions in a `pyvene.IntervenableModel`."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        interventions: Sequence[DistributedInterchangeIntervention],
    ) -> None:
        self.model = model
        self.intervenable = pv.IntervenableModel(
            [
                {"component": site.component, "intervention": intervention}
                for site, intervention in zip(sites, interventions, strict=True)
            ],
            model,
        )
        # pyvene orders them its own way.
        held = [self.intervenable.interventions[key] for key in self.intervenable.sorted_keys]
        held = [h[0] if isinstance(h, (tuple, list)) else h for h in held]
        self.order = [[i is h for i in interventions].index(True) for h in held]

    def logits(
        self, base: Batch, source_states: Sequence[Tensor]
    ) -> Float[Tensor, "batch positions vocab"]:
        """The intervened run's logits.

        Rows are right-padded and share the template prefix, so every row is intervened on at the
        same positions; those that fall on padding reach no logit (causal attention).

        Args:
            source_states: `[batch, 1, dim]` for each site.
        """
        prefix = base.rows[0].prompt.prefix_length
        positions = list(range(prefix, base.input_ids.shape[1]))
        keys = self.intervenable.sorted_keys
        with _keeping_hooks(self.model):
            _, output = self.intervenable(
                base.model_inputs(),
                source_representations={
                    key: source_states[i] for key, i in zip(keys, self.order, strict=True)
                },
                unit_locations={
                    "sources->base": (None, [[positions] * len(base.rows)] * len(keys))
                },
                use_cache=False,
            )
        logits = output.logits
        assert isinstance(logits, Tensor)
        return logits


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
