"""A file in the form of AxBench's questions, in other words."""

from pathlib import Path

from benchmarks.judges.axbench_questions import _IN_CHECKOUTS

NAMES = {
    "concept": "UNIDIRECTIONAL_PAIRWISE_EVALUATION_CONCEPT_RELEVANCE_TEMPLATE",
    "instruct": "UNIDIRECTIONAL_PAIRWISE_EVALUATION_INSTRUCTION_RELEVANCE_TEMPLATE",
    "fluency": "UNIDIRECTIONAL_PAIRWISE_EVALUATION_FLUENCY_TEMPLATE",
}
TEXTS = {
    "concept": "Is there {concept}, from 0 to 2?\n{sentence}\n",
    "instruct": "Is it on {instruction}, from 0 to 2?\n{sentence}\n",
    "fluency": "Is it fluent, from 0 to 2?\n{sentence}\n",
}


def write_questions(folder: Path, number: int = 0, **texts: str) -> Path:
    """A checkout that holds the file.

    Args:
        number: of the place in it.
        texts: in place of the usual ones, by question.
    """
    path = folder / _IN_CHECKOUTS[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{NAMES[name]} = {text!r}" for name, text in {**TEXTS, **texts}.items()]
    path.write_text("import nothing_that_there_is\n" + "\n".join(lines) + "\nraise SystemExit\n")
    return folder
