"""Templates that put a concept and an instruction together."""

from concept_das.data.conversations import asked, asking

CONCEPT_PROMPT = "{instruction}\n\n{concept}."

# For concepts that are topics instead of ways of speaking, such as AxBench's.
TOPIC_PROMPT = (
    "Please incorporate the concept below into your response to the instruction.\n\n"
    "Concept: {concept}\n\nInstruction: {instruction}"
)


def concept_input(instruction: str, concept: str, template: str = CONCEPT_PROMPT) -> str:
    """The concept-eliciting form of an instruction, or of a conversation's last question.

    Args:
        template: text with `{instruction}` and `{concept}`.
    """
    text = template.replace("{concept}", concept.rstrip(". "))
    return asking(instruction, text.replace("{instruction}", asked(instruction)))
