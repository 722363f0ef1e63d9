"""The page of results says what its csv files hold."""

import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.detectors.labelled import labelled_refusals
from benchmarks.detectors.refusals import is_refusal
from tests.results.reading import RESULTS, interval, read, sections, statements_of, tables_of
from tests.results.statements import STATEMENTS
from tests.results.tables import TABLES, markdown


def test_every_section_is_checked() -> None:
    assert list(sections()) == list(TABLES) == list(STATEMENTS)


@pytest.mark.parametrize("section", TABLES)
def test_every_cell_is_that_of_the_csv_files(section: str) -> None:
    assert tables_of(sections()[section]) == TABLES[section]()


@pytest.mark.parametrize("section", STATEMENTS)
def test_every_statement_is_made_from_the_csv_files(section: str) -> None:
    said = statements_of(sections()[section])
    assert sorted(said) == sorted(STATEMENTS[section]())


def test_no_number_of_a_result_stands_outside_tables_and_statements() -> None:
    page = (RESULTS / "README.md").read_text("utf-8")
    page = re.sub(r"```.*?```|`[^`]*`", "", page, flags=re.DOTALL)
    for text in re.split(r"\n\n+", page):
        if not text.startswith(("|", "- ")):
            # Results have percent signs, intervals or spreads; settings have none.
            assert not re.search(r"\d%(?! (?:intervals|Wilson))|\[-?\d|± ?\d", text), text


def test_the_page_gives_the_code_the_command_and_the_files_of_each_section() -> None:
    page = (RESULTS / "README.md").read_text("utf-8")
    for name, text in sections().items():
        assert re.search(r"^Code of [0-9a-f]{7} ", text, flags=re.MULTILINE), name
        assert "```" in text, name
    linked = set(re.findall(r"\]\(([^)#]+)\)", page))
    assert not [path for path in linked if not (RESULTS / path).exists()]
    # Every csv file has a reader here, or is linked as the whole of what a table sums up.
    sources = "".join(p.read_text() for p in (RESULTS.parent / "tests/results").glob("*.py"))
    for path in RESULTS.rglob("*.csv"):
        name = path.relative_to(RESULTS).as_posix()
        assert name in sources or name in linked, name


def test_the_agreement_of_the_phrases_is_today_s() -> None:
    labelled = labelled_refusals()
    right = sum(one.label == is_refusal(one.text) for one in labelled)
    said = " ".join(sections()["refusal"].split())
    assert f"of {len(labelled)} hard answers labelled by hand they tell {right} " in said


def test_refusal_measured_again_has_the_same_numbers() -> None:
    keys = ["method", "seed", "multiplier"]
    first, again = (read(f"refusal/{name}.csv").set_index(keys) for name in ("table", "again"))
    shared = [name for name in again if name in first and not name.endswith(("_low", "_high"))]
    assert {"suppression", "kl_elicitation", "kl_side_effect_response"} <= set(shared)
    pd.testing.assert_frame_equal(
        again[shared], first.loc[again.index, shared], check_dtype=False, rtol=1e-5
    )


def test_a_changed_cell_or_statement_is_found() -> None:
    (rows,) = TABLES["demo"]()
    changed = markdown(rows).replace("0.80 [", "0.81 [")
    assert tables_of(markdown(rows)) == [rows]
    assert tables_of(changed) != [rows]
    said = "What holds:\n\n- One of\n  two.\n- Another.\n\nText."
    assert statements_of(said) == ["One of two.", "Another."]


def test_intervals_are_over_units() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2.00 [-0.48, 4.48]"
    assert interval(list(np.ones(4)), 1.0) == "1.00 [1.00, 1.00]"
