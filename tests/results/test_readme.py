"""The results in the README of the project are those of the csv files."""

import re
from pathlib import Path

import pytest

from tests.results.cases import mean_of, sd_of
from tests.results.reading import ELICIT, KL_SUPPRESS, SUPPRESS, percent, read
from tests.results.tables import figures

README = Path(__file__).parents[2] / "README.md"


def numbers_that_hold() -> dict[str, set[str]]:
    """By a word of the row: every number that its sentences may have."""
    demo = read("demo/evaluation.csv").set_index("multiplier").loc[1.0]
    asked = figures("demo/metrics.json")["recognised: concept asked for, unsteered"]
    blocks, methods = (
        read(f"{name}/table.csv").query("multiplier == 1").groupby("method").mean(numeric_only=True)
        for name in ("blocks", "methods")
    )
    shown = blocks.loc[["cdas", "cdas@spread", "cdas_learned@spread"], [ELICIT, SUPPRESS]]
    free, back = read("refusal/table.csv"), read("backdoor/table.csv")
    freed = [mean_of(back, "cdas", multiplier, "triggered_freed") for multiplier in (1, 2)]
    rates = [
        *(mean_of(free, "cdas", multiplier, "suppression") for multiplier in (1, 2)),
        float(free.loc[0, "suppression"]),
        *freed,
        *(mean_of(back, "cdas", multiplier, "clean_changed") for multiplier in (1, 2)),
    ]
    return {
        "demo": {f"{demo[ELICIT]:.2f}", f"{demo[SUPPRESS]:.2f}", percent(asked)},
        "block": {f"{value:.2f}" for value in shown.to_numpy().ravel()},
        "thirteen": {f"{value:.2f}" for value in methods[SUPPRESS].dropna()},
        "safety": {
            *map(percent, rates),
            f"{100 * sd_of(back, 'cdas', 1, 'triggered_freed'):.0f}",
        },
    }


@pytest.mark.parametrize("word", ["demo", "block", "thirteen", "safety"])
def test_every_number_of_the_first_page_is_in_the_files(word: str) -> None:
    page = README.read_text("utf-8")
    lines = page[page.index("## Results") :].splitlines()
    (row,) = (line for line in lines if line.startswith("| ") and word in line.split(" | ")[0])
    assert set(re.findall(r"\d+(?:\.\d+)?%?", row)) <= numbers_that_hold()[word]


def test_what_the_first_page_says_of_the_methods() -> None:
    means = read("methods/table.csv").query("multiplier == 1").groupby("method")
    mean = means.mean(numeric_only=True)
    kept = mean.loc[["cdas", "kl_teacher_student", "kl_student_teacher", "cdas_loreft"], SUPPRESS]
    assert mean[SUPPRESS].drop(kept.index).max() < kept.min()
    assert mean.loc["bipo", KL_SUPPRESS] < mean.loc["cdas", KL_SUPPRESS]
    assert mean.loc["bipo", SUPPRESS] / mean.loc["cdas", SUPPRESS] == pytest.approx(1 / 3, abs=0.03)
    assert mean_of(read("backdoor/table.csv"), "cdas", 2, "triggered_freed") == 1
