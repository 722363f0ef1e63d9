"""How near a steered model's predictions are to those it should have, as KL divergences in nats.

Both models read the same response, each after a prompt of its own:

    D_k = KL( p(. | reference prompt, y_<k) || p_steered(. | steered prompt, y_<k) )

- `first` is D_1, read at the prompts' last tokens. The paper's KL fidelity of refusal is its mean
  over test pairs, with a harmless instruction as the reference and a harmful one steered; the two
  have nothing else in common, so that it says whether the model sets out to answer, not to what.
- `response` is the mean of D_k over the response. It needs prompts that ask for the same, or else
  nobody knows what the second token should be: a triggered instruction against the clean one with
  the clean answer, or, as a side effect, an instruction against itself with its own answer.

The untouched model stands first in the divergence, as in the paper: what it may say and the steered
model cannot costs most. The whole steered run is steered, template prefix excepted, the response
included, as in generation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from concept_das.data.chat_format import Prompt, Turn
from concept_das.evaluation.by_strength import SteeredLogits
from concept_das.steering.context import Steering
from objectives import kl_teacher_student


@dataclass(frozen=True)
class Pair:
    """What two models read.

    Attributes:
        reference: prompt of the untouched model.
        steered: prompt of the steered one.
        response: what both read after it; empty if only the prompts' ends are compared.
    """

    reference: Prompt
    steered: Prompt
    response: tuple[int, ...] = ()

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The untouched model's text and the steered one's."""
        # Logits at the prompt's end depend on no response, but are asked for as those of one.
        response = self.response or self.reference.ids[-1:]
        return self.reference.with_response(response), self.steered.with_response(response)


@dataclass(frozen=True)
class Divergence:
    """KL(untouched || steered) of a pair, in nats.

    Attributes:
        first: at the prompts' last tokens.
        response: mean over the response's tokens; NaN without one.
    """

    first: float
    response: float


@torch.no_grad()
def divergences(
    logits: SteeredLogits, pairs: Sequence[Pair], steerings: Sequence[Steering | None]
) -> Iterator[list[Divergence]]:
    """The divergences of a batch of pairs under each steering, one list per steering.

    Args:
        logits: of the model; see `concept_das.evaluation.by_strength.steered_logits`.
        steerings: None for the untouched model.
    """
    turns = [pair.turns for pair in pairs]
    teachers = logits.of([reference for reference, _ in turns])
    for steering in steerings:
        students = logits.of([steered for _, steered in turns], steering)
        found = []
        for pair, student, teacher in zip(pairs, students, teachers, strict=True):
            each = kl_teacher_student(student, teacher)
            mean = float(each.mean()) if pair.response else float("nan")
            found.append(Divergence(float(each[0]), mean))
        yield found
