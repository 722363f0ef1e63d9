"""A judge that needs no other model and no network. What it measures is a proxy, and says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.judges.likelihood import Fluency, Relatedness
from benchmarks.judges.probe import ConceptProbe
from benchmarks.judges.ratings import EMPTY_RESPONSE, Item, Rating
from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.models.loading import LoadedModel


@dataclass(frozen=True)
class ProxyJudge:
    """Rates responses by a probe per concept and by the unsteered model's likelihoods.

    The three rules, with their thresholds, are in `ConceptProbe`, `Relatedness` and `Fluency`. A
    response without text is rated 0 by rule.

    Attributes:
        loaded: the model whose steered responses are rated; not inside a `steer` block.
        probes: by concept.
        relatedness: against which other instructions.
        fluency: calibrated on this model's unsteered responses.
    """

    loaded: LoadedModel
    probes: Mapping[str, ConceptProbe]
    relatedness: Relatedness
    fluency: Fluency
    batch_size: int = 16

    kind: Literal["proxy"] = field(default="proxy", init=False)

    @property
    def name(self) -> str:
        """For tables."""
        return f"proxy by {self.loaded.name}"

    def rate(self, items: Sequence[Item]) -> list[Rating]:
        """One rating per item, in order; but for rounding, other items have no say in it.

        Raises:
            InputError: if there is no probe for a concept.
        """
        for item in items:
            if item.concept not in self.probes:
                raise InputError(f"there is no probe for the concept {item.concept!r}; fit one")
        # Equal items are rated once.
        asked = list(dict.fromkeys(item for item in items if item.response.strip()))
        model, chat = self.loaded.model, ChatFormat.of(self.loaded.tokenizer)
        pairs = [(item.instruction, item.response) for item in asked]
        texts = [item.response for item in asked]
        related = self.relatedness.rate(model, chat, pairs, batch_size=self.batch_size)
        fluent = self.fluency.rate(model, chat, texts, batch_size=self.batch_size)
        shown = [self.probes[item.concept].rate([item.response])[0] for item in asked]
        ratings = dict(zip(asked, map(Rating, shown, related, fluent), strict=True))
        return [ratings.get(item, EMPTY_RESPONSE) for item in items]

    def description(self) -> dict[str, Any]:
        """What the ratings rest on, to be kept beside them: AUROC per concept, thresholds."""
        return {
            "judge_kind": self.kind,
            "judge": self.name,
            "probe_auroc": {concept: probe.auroc for concept, probe in self.probes.items()},
            "probe_thresholds": {c: (probe.some, probe.clear) for c, probe in self.probes.items()},
            "probe_texts": {concept: probe.texts for concept, probe in self.probes.items()},
            "other_instructions": self.relatedness.others,
            "relatedness_tokens": self.relatedness.max_tokens,
            "fluency_usual": self.fluency.usual,
            "fluency_limit": self.fluency.limit,
            "fluency_varied": self.fluency.varied,
            "fluency_tokens": self.fluency.max_tokens,
        }
