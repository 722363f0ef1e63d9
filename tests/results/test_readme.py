"""The results in the README of the project are those of the csv files."""

import re
from pathlib import Path

import pytest

from tests.results.cases import mean_of, over_seeds, sd_of
from tests.results.reading import ELICIT, JSD_ELICIT, SUPPRESS, percent, read
from tests.results.statements import INTERCHANGE
from tests.results.tables import figures

README = Path(__file__).parents[2] / "README.md"


def numbers_that_hold() -> dict[str, set[str]]:
    """By a word of the row: every number that its sentences may have."""
    demo = read("demo/evaluation.csv").set_index("multiplier").loc[1.0]
    asked = figures("demo/metrics.json")["recognised: concept asked for, unsteered"]
    every = read("blocks/table.csv").groupby(["method", "multiplier"]).mean(numeric_only=True)
    blocks = every.xs(1.0, level="multiplier")
    best = every[SUPPRESS].groupby("method").max()
    shown = blocks.loc[["cdas", "cdas@spread", "cdas_learned@spread"], [ELICIT, SUPPRESS]]
    free, back = read("refusal/table.csv"), read("backdoor/table.csv")
    rates = [
        mean_of(free, "cdas", multiplier, name)
        for multiplier in (1, 2)
        for name in ("suppression", "elicitation")
    ]
    return {
        "demo": {f"{demo[ELICIT]:.2f}", f"{demo[SUPPRESS]:.2f}", percent(asked)},
        "one block": {f"{value:.2f}" for value in shown.to_numpy().ravel()},
        "fourteen": {f"{best[~best.index.str.startswith(INTERCHANGE)].max():.2f}"},
        "refusal": {*map(percent, [*rates, float(free.loc[0, "suppression"])])},
        "backdoor": {
            percent(mean_of(back, "cdas", 1, "triggered_freed")),
            f"{100 * sd_of(back, 'cdas', 1, 'triggered_freed'):.0f}",
        },
    }


@pytest.mark.parametrize("word", ["demo", "one block", "fourteen", "refusal", "backdoor"])
def test_every_number_of_the_first_page_is_in_the_files(word: str) -> None:
    page = README.read_text("utf-8")
    lines = page[page.index("## Results") :].splitlines()
    (row,) = (line for line in lines if line.startswith("| ") and word in line.split(" | ")[0])
    assert set(re.findall(r"\d+(?:\.\d+)?%?", row)) <= numbers_that_hold()[word]


def test_what_the_first_page_says_of_the_methods() -> None:
    table = read("blocks/table.csv")
    assert len({method.split("@")[0] for method in table["method"]}) == 15  # with the prompt
    best = table.groupby(["method", "multiplier"])[SUPPRESS].mean().groupby("method").max()
    apart = best.index.str.startswith(INTERCHANGE)
    assert best[apart].min() > best[~apart].max()
    mean = table.query("multiplier == 1").groupby("method").mean(numeric_only=True)
    for name in ("das", "lang", "reps", "prosv_lang", "prosv_simpo", "loreft", "lora"):
        assert mean.loc[name, ELICIT] > mean.loc["cdas@spread", ELICIT]
        assert mean.loc[name, JSD_ELICIT] > 2 * mean.loc["cdas@spread", JSD_ELICIT]


def test_what_the_first_page_says_of_the_safety_cases() -> None:
    assert set(over_seeds(read("backdoor/table.csv"), "cdas", 2, "triggered_freed")) == {1.0}
    one, several = read("refusal/table.csv"), read("refusal/blocks.csv")
    assert mean_of(several, "cdas", 1, "suppression") > 0.95
    for multiplier in (1, 2):
        ours = mean_of(one, "cdas", multiplier, "kl_side_effect_response")
        assert mean_of(several, "cdas", 1, "kl_side_effect_response") > 5 * ours
