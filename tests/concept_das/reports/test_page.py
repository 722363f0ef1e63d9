"""The page holds what it was given, whatever that is, and loads nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from concept_das.errors import InputError
from concept_das.reports.figures import figure_png
from concept_das.reports.page import Picture, write_page
from tests.concept_das.reports.pages import Page

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script> --> &amp; ]]> </SCRIPT >",
    'line one\nline two\u2028three "quoted" \\ \x00 \U0001f3f4',
    "{{ title }} {% raw %}",
)


def answers() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "rating": [2.0, np.nan, 0.5, 1.0],
            "text": HOSTILE,
            "multiplier": [10.0, 9.0, 1.5, np.nan],
            "method": ["reps", "cdas", None, "cdas"],
            "id": np.arange(4),
        }
    )


def written(folder: Path, **given: Any) -> Page:
    return Page(write_page(folder / "new" / "page.html", "Title", **given).read_text())


def decoded(page: Page) -> pd.DataFrame:
    return pd.DataFrame(
        {
            column["name"]: [None if c < 0 else column["values"][c] for c in column["codes"]]
            for column in json.loads(page.data)
        }
    )


def test_every_answer_can_be_read_back_and_none_breaks_out(tmp_path: Path) -> None:
    page = written(tmp_path, answers=answers(), filters=["method", "multiplier"], texts=["text"])
    back = decoded(page)
    assert list(back) == ["method", "multiplier", "rating", "id", "text"]
    pd.testing.assert_frame_equal(back, answers()[list(back)], check_dtype=False)
    assert len(page.texts["script"]) == 3  # data, answers, sorting
    assert not any("alert(1)" in text for text in page.texts["script"][1:])
    assert not set("<>&") & set(page.data)


def test_choices_are_in_order_and_roles_are_told(tmp_path: Path) -> None:
    page = written(tmp_path, answers=answers(), filters=["method", "multiplier"], texts=["text"])
    columns = {column["name"]: column for column in json.loads(page.data)}
    assert columns["multiplier"]["values"] == [1.5, 9.0, 10.0]
    assert columns["multiplier"]["codes"] == [2, 1, 0, -1]
    assert columns["method"]["values"] == ["cdas", "reps"]
    assert columns["method"]["codes"] == [1, 0, -1, 0]
    assert [c["role"] for c in columns.values()] == ["filter", "filter", "value", "value", "text"]
    assert columns["rating"]["number"]
    assert not columns["text"]["number"]
    assert [text for text in page.texts["label"] if text] == [
        "method", "multiplier", "containing", "order",
    ]  # fmt: skip


@pytest.mark.parametrize("nothing", [None, pd.DataFrame()])
def test_a_page_without_answers(tmp_path: Path, nothing: pd.DataFrame | None) -> None:
    page = written(tmp_path, answers=nothing, notes=["A note."], filters=["method"])
    assert "A note." in page.texts["p"]
    assert "form" not in page.texts
    assert len(page.texts["script"]) == 1


def test_tables_figures_and_sentences(tmp_path: Path) -> None:
    figure = Figure()
    figure.subplots().plot([0, 1])
    page = written(
        tmp_path,
        notes=["a < b"],
        warnings=["<b>mind</b>"],
        reading=["How."],
        tables={"Scores & more": pd.DataFrame({"the_method": ["<i>"], "score": [0.12345]})},
        figures={"Curve": Picture(figure_png(figure))},
    )
    assert page.texts["p"][:2] == ["<b>mind</b>", "a < b"]
    assert page.texts["td"] == ["<i>", "0.123"]
    assert page.texts["button"][:2] == ["the method", "score"]
    assert page.texts["h2"] == ["Scores & more", "How to read them", "Curve"]
    assert len(page.addresses) == 1
    assert page.addresses[0].startswith("data:image/png;base64,")


def test_equal_pages_are_equal_files(tmp_path: Path) -> None:
    def page(name: str) -> bytes:
        figure = Figure(layout="constrained")
        figure.subplots().plot([0, 1], label="x")
        given = {
            "filters": ["method"],
            "texts": ["text"],
            "figures": {"Curve": Picture(figure_png(figure))},
        }
        return write_page(tmp_path / name, "T", answers=answers(), **given).read_bytes()

    assert page("a.html") == page("b.html")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"filters": ["concept"]}, "no column 'concept'"),
        ({"texts": ["answer"]}, "no column 'answer'"),
        ({"filters": ["method"], "texts": ["method"]}, "'method' of the answers is named twice"),
    ],
)
def test_columns_that_cannot_be_used(
    tmp_path: Path, given: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        written(tmp_path, answers=answers(), **given)
    assert not list(tmp_path.iterdir())
