"""Prompting, the reference that every steering method is measured against."""

from concept_das.data.quadruples import Direction
from concept_das.errors import InputError
from concept_das.methods.base import FittedMethod, Job
from concept_das.prompting import SteeringPrompt

TEXTS: dict[Direction, str] = {
    "elicit": "Let your answer show this: {concept}.\n\n",
    "suppress": "Keep this out of your answer, even if you are asked for it: {concept}.\n\n",
}


class Prompting(FittedMethod):
    """Ask for the concept, or ask to leave it out, in words before the user's.

    AxBench has gpt-4o-mini write a steering prompt for each concept; this one is a fixed sentence
    around the concept's name, so its scores are not AxBench's. The data's own concept prompts ask
    in other words.
    """

    name = "prompt"
    summary = "reference: the concept asked for, or asked to be left out, in words"
    steering = "a sentence before the user's text; has no strength"
    columns = ("concept",)

    def fit(self, job: Job) -> SteeringPrompt:
        """Fill in the concept's name.

        Raises:
            InputError: if the data do not say what the concept is.
        """
        concept = job.rows[0].concept.strip().rstrip(".")
        if not concept:
            raise InputError("prompting needs the concept in words; fill the data's column concept")
        texts = {direction: text.format(concept=concept) for direction, text in TEXTS.items()}
        ids = {direction: job.chat.text_ids(text) for direction, text in texts.items()}
        return SteeringPrompt(texts=texts, ids=ids, **job.common)
