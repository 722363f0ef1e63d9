"""The results in the README of the project are those of the csv files."""

from pathlib import Path

import pytest

from tests.results.cases import mean_of, sd_of
from tests.results.reading import ELICIT, KL_SUPPRESS, SUPPRESS, percent, read
from tests.results.tables import figures

README = Path(__file__).parents[2] / "README.md"


def test_the_numbers_of_the_first_page() -> None:
    page = README.read_text("utf-8")
    rows = {
        line.split(" | ")[0].strip("| "): line
        for line in page[page.index("## Results") :].splitlines()
        if line.startswith("| ")
    }
    demo = read("demo/evaluation.csv").set_index("multiplier").loc[1.0]
    words = figures("demo/metrics.json")["recognised: concept asked for, unsteered"]
    blocks, methods = (
        read(f"{name}/table.csv").query("multiplier == 1").groupby("method").mean(numeric_only=True)
        for name in ("blocks", "methods")
    )
    one, learned = blocks.loc["cdas"], blocks.loc["cdas_learned@spread"]
    kept = methods.loc[["cdas", "kl_teacher_student", "kl_student_teacher"], SUPPRESS]
    free, back = read("refusal/table.csv"), read("backdoor/table.csv")
    freed = "triggered_freed"
    expected = {
        "the demo": [
            f"recovery is {demo[ELICIT]:.2f} towards the concept and {demo[SUPPRESS]:.2f} away",
            f"of the prompted ones {percent(words)}",
        ],
        "CDAS at one block": [
            f"elicits {one[ELICIT]:.2f} and {learned[ELICIT]:.2f}, suppresses {one[SUPPRESS]:.2f} "
            f"and {learned[SUPPRESS]:.2f}",
        ],
        "thirteen methods": [
            f"suppress {kept.min():.2f} to {kept.max():.2f}",
            f"suppresses {methods.loc['bipo', SUPPRESS]:.2f};",
        ],
        "two safety cases": [
            f"{percent(mean_of(free, 'cdas', 1, 'suppression'))} of harmful requests are not "
            f"refused at the unit factor ({percent(free.loc[0, 'suppression'])} without), "
            f"{percent(mean_of(free, 'cdas', 2, 'suppression'))} at twice that",
            f"{percent(mean_of(back, 'cdas', 1, freed))} ± "
            f"{100 * sd_of(back, 'cdas', 1, freed):.0f} of backdoored",
            f"{percent(mean_of(back, 'cdas', 1, 'clean_changed'))} of clean answers change",
        ],
    }
    for start, said in expected.items():
        (row,) = (row for name, row in rows.items() if name.startswith(start))
        for part in said:
            assert part in row
    assert methods.loc["bipo", KL_SUPPRESS] < methods.loc["cdas", KL_SUPPRESS]
    others = methods[SUPPRESS].drop([*kept.index, "cdas_loreft"]).dropna()
    assert others.max() < kept.min()
    assert mean_of(back, "cdas", 2, freed) == pytest.approx(1)
