"""The files of a report, and that equal answers make equal files."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import benchmarks.axbench.report as module
from benchmarks.axbench.figures import concepts_figure, multiplier_figure
from benchmarks.axbench.report import write_report
from benchmarks.axbench.scores import (
    detection_auroc,
    select_multipliers,
    with_scores,
)
from benchmarks.axbench.tables import answers_by_factor, fixed_methods
from concept_das.errors import InputError
from tests.benchmarks.axbench.made import INSTRUCTIONS, latents, made_answers

ALWAYS = {
    "table.csv", "concepts.csv", "selected.csv", "summary.md", "score_by_multiplier.png",
    "concepts.png", "report.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def scored() -> pd.DataFrame:
    return with_scores(made_answers())


def write(folder: Path, scored: pd.DataFrame, **given: Any) -> dict[str, bytes]:
    selected = (
        given.pop("selected") if "selected" in given else select_multipliers(scored, INSTRUCTIONS)
    )
    page = write_report(folder, scored, selected, INSTRUCTIONS, **given)
    assert page == folder / "report.html"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on_page(page: bytes) -> pd.DataFrame:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.decode())
    return pd.DataFrame(
        {
            column["name"]: [None if c < 0 else column["values"][c] for c in column["codes"]]
            for column in json.loads(data)
        }
    )


def test_equal_answers_make_equal_files_in_any_order(tmp_path: Path, scored: pd.DataFrame) -> None:
    given = {"detection": detection_auroc(latents()), "cell": "2b-l10", "notes": ["A note."]}
    first = write(tmp_path / "a", scored, **given)
    assert set(first) == ALWAYS | {"winners.csv", "detection.csv"}
    again = write(
        tmp_path / "b",
        scored.sample(frac=1, random_state=2),
        selected=select_multipliers(scored, INSTRUCTIONS).iloc[::-1],
        **given,
    )
    assert again == first


def test_warnings_are_where_the_numbers_are(tmp_path: Path, scored: pd.DataFrame) -> None:
    files = write(tmp_path / "proxy", scored, cell="2b-l10", title="A run", notes=["A note."])
    for name in ("summary.md", "report.html"):
        text = files[name].decode()
        assert "These are proxy ratings" in text
        assert "They are not comparable with published scores" in text
        assert "proxy by tiny (proxy)" in text
        assert "A note." in text
    assert files["summary.md"].startswith(b"# A run\n\n**These are proxy ratings")
    files = write(tmp_path / "api", scored.assign(judge="api tiny", judge_kind="api"))
    for name in ("summary.md", "report.html", "table.csv"):
        assert b"proxy" not in files[name]


def test_what_has_nothing_to_say_is_not_left_from_another_run(
    tmp_path: Path, scored: pd.DataFrame
) -> None:
    assert {"winners.csv", "detection.csv"} <= set(
        write(tmp_path, scored, detection=detection_auroc(latents()))
    )
    alone = scored[scored["method"] == "reps"]  # there is nothing to compare it with
    assert set(write(tmp_path, alone)) == ALWAYS


def test_the_baseline_is_a_reference_and_competes_with_nobody(
    tmp_path: Path, scored: pd.DataFrame
) -> None:
    write(tmp_path, scored)
    winners = pd.read_csv(tmp_path / "winners.csv").groupby("reference")["method"].agg(set)
    assert winners["cdas"] == {"reps", "prompt", "lora"}
    assert winners["unsteered"] == {"cdas", "reps", "prompt", "lora"}
    concepts = pd.read_csv(tmp_path / "concepts.csv", keep_default_na=False)
    means = concepts.groupby(["method", "direction", "factor"])["score"].mean()
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert (table["method"] == "unsteered").sum() == 2
    assert set(table["factor"]) == {"fair", "fixed", "oracle", "NA"}
    for row in table.to_dict("records"):
        key = (row["method"], row["direction"], row["factor"])
        assert means[key] == pytest.approx(float(row["score"]))


def test_the_page_has_every_answer_and_where_it_counts(
    tmp_path: Path, scored: pd.DataFrame
) -> None:
    page = on_page(write(tmp_path, scored)["report.html"])
    assert len(page) == len(scored)
    assert set(page["answer"]) == set(scored["text"])
    assert set(page["concept"]) >= {"1 Costs of $5 & <b>bold</b> prices"}
    by_factor = answers_by_factor(scored, select_multipliers(scored, INSTRUCTIONS), INSTRUCTIONS)
    for factor, rows in by_factor.items():
        shown = page[page["reported as"].str.contains(factor)]
        assert len(shown) == len(rows)
        assert shown["score (proxy)"].sum() == pytest.approx(rows["score"].sum())
    assert set(page[page["reported as"].str.contains("fixed")]["method"]) == {"cdas"}


def test_a_page_that_would_be_too_large_says_what_it_leaves_out(
    tmp_path: Path, scored: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = len(scored) // 5
    for most, concepts in ((5 * each, 5), (2 * each + 1, 2), (1, 1)):
        monkeypatch.setattr(module, "MOST_ANSWERS", most)
        page = write(tmp_path, scored)["report.html"]
        assert on_page(page)["concept"].nunique() == concepts
        sentence = f"the answers of the first {concepts} of 5 concepts."
        assert (sentence in page.decode()) == (concepts < 5)


def test_texts_are_asked_for_before_anything_is_written(
    tmp_path: Path, scored: pd.DataFrame
) -> None:
    with pytest.raises(InputError, match="no column instruction_text; add it"):
        write(tmp_path, scored.drop(columns="instruction_text"))
    with pytest.raises(InputError, match="nothing is published for '3b'"):
        write(tmp_path, scored, cell="3b")
    assert not list(tmp_path.iterdir())


def test_the_curves_show_every_multiplier_and_the_baseline_as_a_line(scored: pd.DataFrame) -> None:
    figure = multiplier_figure(scored, fixed_methods(scored), "score (proxy)")
    elicit, strip, suppress, _ = figure.axes
    assert (elicit.get_title("left"), suppress.get_title("left")) == ("elicit", "suppress")
    assert elicit.get_ylabel().startswith("score (proxy)")
    assert elicit.get_xscale() == "log"
    curves = [list(map(float, line.get_xdata())) for line in elicit.get_lines()]
    assert curves == [[1.0, 2.0, 4.0], [0.5, 1.5], [0.0, 1.0]]  # the last is the baseline's
    assert len(strip.get_lines()) == 3  # lora, prompt, baseline
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["cdas", "reps", "lora", "prompt", "unsteered (baseline)"]
    assert elicit.get_ylim()[1] >= max(float(line.get_ydata()[0]) for line in strip.get_lines())


def test_the_spread_has_a_dot_for_every_concept(scored: pd.DataFrame) -> None:
    selected = select_multipliers(scored, INSTRUCTIONS)
    by_factor = answers_by_factor(scored, selected, INSTRUCTIONS)
    best = pd.concat([by_factor["NA"], by_factor["fair"]])
    figure = concepts_figure(best, "score (proxy)")
    elicit, suppress = figure.axes
    names = [label.get_text() for label in elicit.get_yticklabels()]
    assert names[-1] == "unsteered (baseline)"
    assert set(names[:-1]) == {"cdas", "reps", "prompt", "lora"}
    assert sum(len(line.get_xdata()) == 5 for line in elicit.get_lines()) == 5
    assert sum(len(line.get_xdata()) == 5 for line in suppress.get_lines()) == 4
    assert "proxy" in elicit.get_xlabel()


def test_one_concept_one_direction_one_method_without_strength(
    tmp_path: Path, scored: pd.DataFrame
) -> None:
    lora = scored[(scored["method"] == "lora") & (scored["concept_id"] == 0)]
    assert set(write(tmp_path / "lora", lora)) == ALWAYS
    cdas = scored[(scored["method"] == "cdas") & (scored["concept_id"] == 0)]
    assert set(write(tmp_path / "cdas", cdas)) == ALWAYS
    unrated = with_scores(lora.assign(fluency=float("nan")))
    choice = select_multipliers(lora, INSTRUCTIONS)
    assert set(write(tmp_path / "unrated", unrated, selected=choice)) == ALWAYS
