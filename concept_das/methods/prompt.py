"""Prompting: steer by a sentence put before the user's text."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from concept_das.data.chat_format import Prompt
from concept_das.errors import InputError
from concept_das.methods.base import Fit, FittedMethod
from concept_das.steering.artifact import Artifact, readable
from concept_das.words import Direction

TEXTS: dict[Direction, str] = {
    "elicit": "Let your answer show this: {concept}.\n\n",
    "suppress": "Keep this out of your answer, even if you are asked for it: {concept}.\n\n",
}


@readable
@dataclass(frozen=True)
class SteeringPrompt(Artifact):
    """A text for each direction, inserted right after the template prefix.

    Attributes:
        texts: the sentence put before the user's text, by direction.
        ids: the same as token ids.
    """

    operations: ClassVar[tuple[str, ...]] = ("prompt",)
    is_text: ClassVar[bool] = True

    texts: Mapping[Direction, str]
    ids: Mapping[Direction, tuple[int, ...]]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions there is a text for."""
        return tuple(self.texts)

    @property
    def rank(self) -> int:
        """No directions."""
        return 0

    @property
    def layers(self) -> tuple[int, ...]:
        """No layers."""
        return ()

    def prompt(self, prompt: Prompt, direction: Direction) -> Prompt:
        """The prompt with the text in it."""
        self.check_direction(direction)
        added, start = self.ids[direction], prompt.prefix_length
        return replace(
            prompt,
            ids=(*prompt.ids[:start], *added, *prompt.ids[start:]),
            source_position=prompt.source_position + len(added),
        )

    def tensors(self) -> dict[str, Tensor]:
        """None: nothing is learned."""
        return {}

    def edit_description(self) -> dict[str, Any]:
        """The texts."""
        return {
            "operation": "prompt",
            "formula": "the text, then the user's own",
            "texts": dict(self.texts),
            "ids": {direction: list(ids) for direction, ids in self.ids.items()},
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "SteeringPrompt":
        """The inverse of `edit_description`."""
        ids = {direction: tuple(ids) for direction, ids in description["ids"].items()}
        return cls(texts=description["texts"], ids=ids, **common)


class Prompting(FittedMethod):
    """Ask for the concept, or ask to leave it out, in words before the user's.

    AxBench has gpt-4o-mini write a steering prompt for each concept; this one is a fixed sentence
    around the concept's name, so its scores are not AxBench's. The data's own concept prompts ask
    in other words. Use it as the reference: what a sentence does.
    """

    name = "prompt"
    is_served = True
    summary = "reference: the concept asked for, or asked to be left out, in words"
    steering = "a sentence before the user's text; has no strength"
    columns = ("concept",)

    def fit(self, task: Fit) -> SteeringPrompt:
        """Fill in the concept's name.

        Raises:
            InputError: if the data do not say what the concept is.
        """
        concept = task.common["concept"].strip().rstrip(".")
        if not concept:
            raise InputError("prompting needs the concept in words; fill the data's column concept")
        texts = {direction: text.format(concept=concept) for direction, text in TEXTS.items()}
        ids = {direction: task.chat.text_ids(text) for direction, text in texts.items()}
        return SteeringPrompt(texts=texts, ids=ids, **task.common)
