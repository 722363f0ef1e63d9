"""PrOSV: a vector and its factor, learned together and added at a few tokens of the prompt.

`h + a v` at the first two and the last two tokens of the prompt (p2+s2), so that nothing is left to
do while new tokens are generated (arXiv 2605.05983; configurations and start values from the
authors' colored-dye/prosv). `v` and the factor `a` are parameters with learning rates of their own,
and only v's gradient is clipped. It is trained to elicit; the negative factor suppresses.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.methods.additive import AdditiveMethod, both_responses
from concept_das.methods.base import Fit, learned_factor
from concept_das.methods.terms import Term, preference_terms, weighted_terms
from concept_das.models.blocks import Site
from interventions import AdditiveIntervention
from objectives import reps_steer_loss
from objectives.names import Reduction

# With n the size of the hidden states, v begins uniform within +- 8 / sqrt(n), a at 4 sqrt(n).
_VECTOR_START, _FACTOR_START = 8.0, 4.0


class PrOSV(AdditiveMethod):
    """The factor of multiplier 1 is the learned one."""

    steering = "add multiplier x learned factor x the vector, at 4 tokens of the prompt"
    positions = "p2+s2"

    def interventions(self, width: int, rank: int) -> Mapping[EditName, AdditiveIntervention]:
        """An addition with a learned factor."""
        bound = _VECTOR_START / width**0.5
        return {
            "add": AdditiveIntervention(
                weight=torch.empty(rank, width).uniform_(-bound, bound),
                factor=torch.full((rank,), _FACTOR_START * width**0.5),
                learns_factor=True,
            )
        }

    def factors_at(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> list[tuple[Tensor, Tensor]]:
        """The learned factor, and its negative."""
        factors = [learned_factor(at_site["add"]).detach().cpu().clone() for at_site in trained]
        return [(-factor, factor) for factor in factors]


class PrOSVLang(PrOSV):
    """Maximum likelihood of the concept's response after the neutral prompt.

    Use it to elicit where decoding must cost nothing.
    """

    name = "prosv_lang"
    summary = "baseline: Lang. at 4 tokens of the prompt, the factor learned (PrOSV)"
    columns = ("positive_output",)

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """The mean negative log-likelihood of y^c after x."""
        runs = [EditedPass(row.elicit.base, None, "add") for row in rows]
        return weighted_terms(runs, "elicit", reduction)


class PrOSVSimPO(PrOSV):
    """The concept's response against the neutral one, by RePS's reference-free preference.

    Use it to elicit where decoding must cost nothing.
    """

    name = "prosv_simpo"
    summary = "baseline: RePS's preference at 4 tokens of the prompt, the factor learned (PrOSV)"

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """One preference per row."""
        pairs = [both_responses(row, "elicit", "add") for row in rows]
        return preference_terms(pairs, reps_steer_loss, "elicit")
