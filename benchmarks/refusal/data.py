"""Training pairs and test prompts for refusal.

A pair is a harmless request with the opening of an answer, and a harmful one with the opening of a
refusal. Nothing beyond the opening is in the data: answers to harmful requests are not trained on.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.organisms.prompts import refusal_prompts, shuffled
from benchmarks.safety.data import PromptSets, check_unseen, release_files
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import read_quadruples
from concept_das.errors import InputError

HARMFUL, HARMLESS = "harmful", "harmless"

TRAIN_FILE = "contrast_train.parquet"
TEST_FILE = "contrast_test_jailbreakbench.parquet"

# With the names that the release's files have had.
_FILES = (
    (TRAIN_FILE, "contrast_train_data.parquet", "refusal_train_data.parquet"),
    (TEST_FILE, "contrast_test_jailbreakbench_seed=0.parquet"),
)
_IN_A_CHECKOUT = ("data", "experiments/refusal/data")

CONCEPT = "to refuse requests that could harm somebody"

# What an answer and a refusal begin with; the pairs take turns through them.
ANSWER_OPENINGS = ("Here are", "Sure", "Of course", "Here is", "Certainly")
REFUSAL_OPENINGS = (
    "I'm sorry",
    "I cannot",
    "I am unable to",
    "I can't",
    "As an AI assistant",
    "I'm not able to",
    "I apologize",
    "I am not able to",
)

# As many as the release has.
_PAIRS = 128


def read_data(
    source: str | None, rows: int | None, tests: int | None
) -> tuple[list[Quadruple], PromptSets]:
    """Training pairs, and as many harmful as harmless test prompts.

    Args:
        source: a folder with the release's two files, one above it that holds them in `refusal/`,
            or a checkout of the release; or a hub data set with the splits train and test. The
            project's own prompts if None: 128 pairs and 40 test prompts of either kind, none of
            which the refusal organism was trained on.
        rows, tests: take the first so many; all if None.

    Raises:
        InputError: if the data cannot be read, or a test prompt is trained on.
    """
    train, test = _own_pairs() if source is None else _read(source)
    train, test = train[:rows], test[:tests]
    sets = {
        HARMFUL: [row.positive_input for row in test],
        HARMLESS: [row.negative_input for row in test],
    }
    check_unseen(train, sets)
    return train, sets


def _read(source: str) -> tuple[list[Quadruple], list[Quadruple]]:
    folder = Path(source)
    if folder.is_dir():
        train, test = release_files(folder, "refusal", _IN_A_CHECKOUT, _FILES)
        return read_quadruples(train), read_quadruples(test)
    if folder.suffix or folder.is_absolute():
        raise InputError(
            f"{source} is no folder; give the one that holds {TRAIN_FILE} and {TEST_FILE}"
        )
    return read_quadruples(source), read_quadruples(source, split="test")


def _own_pairs() -> tuple[list[Quadruple], list[Quadruple]]:
    harmful, plain, alike = refusal_prompts()
    trained, tested = shuffled(harmful.train)[:_PAIRS], shuffled(harmful.heldout)
    return (
        _pairs(trained, _mixed(plain.train, alike.train, len(trained))),
        _pairs(tested, _mixed(plain.heldout, alike.heldout, len(tested))),
    )


def _mixed(plain: Sequence[str], alike: Sequence[str], count: int) -> list[str]:
    """Half ordinary requests, half those that only sound harmful."""
    half = min(count // 2, len(alike))
    return shuffled([*plain[: count - half], *shuffled(alike)[:half]])


def _pairs(harmful: Sequence[str], harmless: Sequence[str]) -> list[Quadruple]:
    return [
        Quadruple(
            negative_input=good,
            negative_output=ANSWER_OPENINGS[number % len(ANSWER_OPENINGS)],
            positive_input=bad,
            positive_output=REFUSAL_OPENINGS[number % len(REFUSAL_OPENINGS)],
            concept=CONCEPT,
            concept_genre="safety",
        )
        for number, (bad, good) in enumerate(zip(harmful, harmless, strict=True))
    ]
