"""Templates that put a concept and an instruction together."""

CONCEPT_PROMPT = "{instruction}\n\n{concept}."

# For concepts that are topics instead of ways of speaking, such as AxBench's.
TOPIC_PROMPT = (
    "Please incorporate the concept below into your response to the instruction.\n\n"
    "Concept: {concept}\n\nInstruction: {instruction}"
)


def concept_input(instruction: str, concept: str, template: str = CONCEPT_PROMPT) -> str:
    """The concept-eliciting form of an instruction.

    Args:
        template: text with `{instruction}` and `{concept}`.
    """
    return template.replace("{concept}", concept.rstrip(". ")).replace("{instruction}", instruction)
