"""The tables that notebooks show."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from concept_das import Quadruple, evaluate, load_vector
from concept_das.notebook import html_table, rounded
from tests.concept_das.helpers import encoded_rows, random_vector, tiny_chat
from tests.tiny import tiny_model


def cells(html: str) -> list[list[str]]:
    """The texts of a table, row by row, after its caption."""
    table = ET.fromstring(html.replace("<br>", "\n"))
    return [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


def test_texts_are_escaped_and_keep_their_lines() -> None:
    html = html_table("a < b", [("x", "<script>", 1), ("y", "two\nlines", 2)], ["", "text", "n"])
    assert "<div>a &lt; b<table>" in html
    assert cells(html) == [["", "text", "n"], ["x", "<script>", "1"], ["y", "two\nlines", "2"]]
    assert "<script>" not in html


def test_numbers_are_short() -> None:
    assert rounded(0.812, 0.7, 0.9049) == "0.81 [0.70, 0.90]"
    assert rounded(0.0123) == "0.012"
    assert rounded(-1.5) == "-1.50"
    assert rounded(math.nan) == "\N{EN DASH}"


def test_a_vector_shows_what_it_is() -> None:
    html = load_vector("pirate")._repr_html_()
    assert "<div>cdas_learned: Talk like a pirate<table>" in html
    shown = {row[0]: row[1] for row in cells(html)}
    assert shown["model"] == "smollm2-135m"
    assert shown["blocks"] == "6, 9, 12, 15, 18, 21, 24, 27 of 30, rank 1"
    assert shown["recovery, elicit"] == "0.77"
    assert shown["recovery, suppress"] == "0.89"


def test_a_vector_that_was_not_measured_shows_no_recovery() -> None:
    html = random_vector(tiny_model())._repr_html_()
    assert [row[0] for row in cells(html)] == ["model", "blocks", "edit"]


def test_an_evaluation_shows_a_row_for_each_multiplier() -> None:
    model = tiny_model()
    vector = random_vector(model)
    strengths = (0.5, 1.0)
    found = evaluate(
        model, tiny_chat(), vector, encoded_rows(), multipliers=strengths, unrelated=()
    )
    head, *rows = cells(found._repr_html_())
    assert [row[0] for row in rows] == ["0.5", "1"]
    assert "JSD, elicit" in head
    assert "KL side effect, elicit" not in head  # there was no unrelated text
    place = head.index("JSD, elicit")
    assert rows[1][place].startswith(rounded(found.at(1.0)["heldout_jsd_elicit"]))


def test_a_row_shows_both_sides() -> None:
    row = Quadruple("Hi", "Hello", "Hi, pirate", "Ahoy\n<matey>", concept="piracy")
    head, neutral, concept = cells(row._repr_html_())
    assert head == ["", "input", "output"]
    assert neutral == ["neutral", "Hi", "Hello"]
    assert concept == ["concept", "Hi, pirate", "Ahoy\n<matey>"]
    assert "<div>piracy<table>" in row._repr_html_()


def test_progress_bars_are_the_notebook_s_own_in_a_notebook() -> None:
    """By tqdm.auto, which is the terminal's elsewhere."""
    root = Path(__file__).parents[2]
    sources = [
        path for name in ("concept_das", "benchmarks") for path in (root / name).rglob("*.py")
    ]
    imports = {
        line
        for path in sources
        for line in path.read_text(encoding="utf-8").splitlines()
        if "import tqdm" in line
    }
    assert imports == {"from tqdm.auto import tqdm"}
