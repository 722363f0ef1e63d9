"""Methods that train a direction to be added: Lang., BiPO and RePS.

Its length is learned (no unit norm), and the factors are in units of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.methods.base import DirectionMethod, Fit
from concept_das.methods.settings import TrainingConfig
from concept_das.methods.terms import Term, preference_terms, weighted_terms
from concept_das.methods.token_objective import LIKELIHOOD
from concept_das.models.blocks import Site
from concept_das.words import Direction
from interventions import AdditiveIntervention, NullOutIntervention
from interventions.partition import PartitionedSubspace
from objectives import bipo_loss, reps_steer_loss, reps_suppress_loss
from objectives.names import Reduction

# Lang. and RePS draw their factors from these (AxBench's configurations).
TRAINING_FACTORS = tuple(range(2, 21, 2))


class AdditiveMethod(DirectionMethod):
    """Add a direction of free length to every position after the template prefix."""

    operation = "add"
    steering = "add multiplier x 11 x the vector; a negative factor suppresses"
    objective = LIKELIHOOD
    unit_factor = float(np.mean(TRAINING_FACTORS))

    def interventions(self, width: int, rank: int) -> Mapping[EditName, PartitionedSubspace]:
        """The addition alone."""
        return {"add": AdditiveIntervention(embed_dim=width, low_rank_dimension=rank)}

    def factors_at(
        self, task: Fit, sites: Sequence[Site], trained: Sequence[Mapping[EditName, nn.Module]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Multiplier 1 is the mean of the factors drawn in training, and its negative."""
        factor = torch.full((task.config.rank,), self.unit_factor)
        return [(-factor, factor)] * len(sites)


class Lang(AdditiveMethod):
    """Maximum likelihood of the concept's response, with factors drawn (AxBench's Lang.).

    Trained to elicit only; it suppresses by a negative factor. Use it to elicit strongly, where
    unrelated text may change.
    """

    name = "lang"
    summary = "baseline: likelihood of the concept's response with an added vector, factors drawn"
    columns = ("positive_output",)

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """The mean negative log-likelihood of y^c after x."""
        factors = rng.choice(TRAINING_FACTORS, len(rows))
        runs = [
            EditedPass(row.elicit.base, None, "add", float(factor))
            for row, factor in zip(rows, factors, strict=True)
        ]
        return weighted_terms(runs, "elicit", reduction)


class BiPO(AdditiveMethod):
    """Bidirectional preference: the vector added prefers the concept, subtracted the neutral text.

    DPO against the untouched model with beta 1 (AxBench; the paper has 0.1). AxBench runs both
    signs for every row, the paper draws one. Use it where unrelated text must change least.
    """

    name = "bipo"
    summary = "baseline: bidirectional preference (DPO), the vector added and subtracted"
    steering = "add multiplier x the vector; a negative factor suppresses"
    unit_factor = 1.0

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """Two preferences per row, one for each sign."""
        signs: list[tuple[int, Direction]] = [(1, "elicit"), (-1, "suppress")]
        return [
            term
            for sign, direction in signs
            for term in preference_terms(
                [both_responses(row, "elicit", "add", [float(sign)] * 2) for row in rows],
                partial(bipo_loss, sign=sign),
                direction,
            )
        ]


class RePS(AdditiveMethod):
    """Reference-free preference: added, the concept's response wins; nulled out, the neutral one.

    Winner and loser draw their factors independently (AxBench). Suppression is trained with the
    direction nulled out, on the concept prompt or, as the release of CDAS has it in all of its
    configurations (`orig_sub`), on the neutral one; see `suppression_prompts` of the settings. It
    is steered by a negative factor, as AxBench does. Use it to elicit strongly, where unrelated
    text may change.
    """

    name = "reps"
    summary = "baseline: reference-free preference with drawn factors, null-out to suppress"

    def interventions(self, width: int, rank: int) -> Mapping[EditName, PartitionedSubspace]:
        """Addition and null-out of one direction."""
        add = AdditiveIntervention(embed_dim=width, low_rank_dimension=rank)
        null = NullOutIntervention(embed_dim=width, low_rank_dimension=rank)
        null.weight = add.weight
        return {"add": add, "null_out": null}

    def rows(
        self, rows: Sequence[EncodedQuadruple], config: TrainingConfig
    ) -> Sequence[EncodedQuadruple]:
        """With the prompts of suppression that the settings name."""
        if config.suppression_prompts == "concept":
            return rows
        return [
            replace(row, suppress=replace(row.suppress, base=row.suppress.source)) for row in rows
        ]

    def terms(
        self, rows: Sequence[EncodedQuadruple], reduction: Reduction, rng: np.random.Generator
    ) -> list[Term]:
        """Two preferences per row."""
        added = [
            both_responses(row, "elicit", "add", map(float, rng.choice(TRAINING_FACTORS, 2)))
            for row in rows
        ]
        nulled = [both_responses(row, "suppress", "null_out") for row in rows]
        elicit = preference_terms(added, reps_steer_loss, "elicit")
        suppress = preference_terms(nulled, reps_suppress_loss, "suppress")
        # Row by row, as in the first release: the order decides how the sums round.
        return [term for of_row in zip(elicit, suppress, strict=True) for term in of_row]


def both_responses(
    row: EncodedQuadruple,
    direction: Direction,
    edit: EditName,
    factors: Iterable[float] = (1.0, 1.0),
) -> tuple[EditedPass, EditedPass]:
    """The concept's and the neutral response after a direction's base prompt, each edited.

    Args:
        factors: of either response, for `add`.
    """
    run: EditedPass = getattr(row, direction)
    concept, neutral = (
        EditedPass(run.base.prompt.with_response(one.base.response), None, edit, factor)
        for one, factor in zip((row.elicit, row.suppress), factors, strict=True)
    )
    return concept, neutral
