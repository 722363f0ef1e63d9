import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from concept_das.errors import InputError
from concept_das.reports.figures import (
    figure_png,
    method_styles,
    recovery_figure,
    tradeoff_figure,
)
from concept_das.reports.page import Picture
from concept_das.reports.results import write_comparison
from concept_das.reports.tables import average, summarise, to_markdown
from concept_das.words import DIRECTIONS, RECOVERY
from tests.concept_das.reports.pages import Page

METHODS = {  # best recovery, best multiplier, side effect at 1
    "cdas": (0.75, 1.5, 0.05),
    "kl_teacher_student": (0.68, 1.4, 0.07),
    "kl_student_teacher": (0.6, 1.2, 0.06),
    "das": (0.35, 1.6, 0.02),
    "pdas": (0.45, 1.2, 0.03),
    "diffmean": (0.25, 1.0, 0.1),
    "lang": (0.55, 0.9, 0.4),
    "bipo": (0.1, 0.6, 1.2),
    "reps": (0.5, 0.8, 0.6),
    "loreft": (0.62, 1.0, 0.3),
    "lora": (0.85, 1.1, 0.9),
    "sft": (0.9, 1.0, 1.6),
    "prompt": (0.97, 1.0, 0.15),
}
CONCEPTS = {
    3: "Talk like a pirate",
    7: "Costs of $5 & <b>bold</b> prices_in the range of $10 to $20 in financial news texts",
    11: "References to musical instruments",
    40: "Shout",
}


def synthetic() -> pd.DataFrame:
    """13 methods, 4 concepts, 3 seeds, 4 multipliers; bipo is very bad, sft suppresses nothing."""
    rng = np.random.default_rng(0)
    records = []
    for method, (concept_id, concept), seed in product(METHODS, CONCEPTS.items(), (42, 43, 44)):
        if method in ("prompt", "diffmean") and seed > 42:
            continue
        best, at, effect = METHODS[method]
        luck = 0.08 * rng.standard_normal()
        for multiplier in (1.0,) if method == "prompt" else (0.5, 1.0, 1.5, 2.0):
            steep = 8.0 if method == "bipo" else 0.6
            value = best + luck - concept_id / 200 - steep * (multiplier - at) ** 2
            suppress = math.nan if method in ("sft", "prompt") else value + 0.1
            record = {
                "method": method,
                "concept_id": concept_id,
                "concept": concept,
                "seed": seed,
                "rank": 1,
                "layers": "15",
                "parameters": 0 if method == "prompt" else 576,
                "multiplier": multiplier,
            }
            kl = effect * multiplier**2 * float(np.exp(0.2 * rng.standard_normal()))
            measures = {"heldout_jsd": 0.3 - value / 5, "kl_side_effect": kl, "perplexity": 4.0}
            for direction, recovery in zip(DIRECTIONS, (value, suppress), strict=True):
                lost = math.nan if math.isnan(recovery) else 1.0
                name = RECOVERY[direction]
                record |= {name: recovery, f"{name}_low": recovery - 0.1, f"{name}_high": 1.0}
                record |= {f"{m}_{direction}": lost * v for m, v in measures.items()}
            records.append({**record, "seconds": 12.5})
    return pd.DataFrame(records)


def small(**recoveries: dict[tuple[int, int, float], float]) -> pd.DataFrame:
    """Rows of methods: {(concept, seed, multiplier): elicitation recovery}."""
    return pd.DataFrame(
        {
            "method": method,
            "concept_id": concept,
            "concept": f"concept {concept}",
            "seed": seed,
            "parameters": 8,
            "multiplier": multiplier,
            "elicitation_recovery": value,
            "elicitation_recovery_low": -9.0,
            "suppression_recovery": math.nan,
            "kl_side_effect_elicit": 10 * multiplier + concept,
            "seconds": 2.0,
        }
        for method, cells in recoveries.items()
        for (concept, seed, multiplier), value in cells.items()
    )


def test_mean_and_deviation_over_seeds() -> None:
    table = small(a={(1, 1, 1.0): 0.2, (1, 2, 1.0): 0.6, (2, 1, 1.0): 0.5, (1, 1, 2.0): 0.9})
    summary = summarise(table.assign(concept=["x", "x", math.nan, "x"])).set_index(
        ["concept_id", "multiplier"]
    )
    assert len(summary) == 3
    both = summary.loc[(1, 1.0)]
    assert both["seeds"] == 2
    assert both["elicitation_recovery"] == pytest.approx(0.4)
    assert both["elicitation_recovery_sd"] == pytest.approx(math.sqrt(0.08))
    assert both["seconds_sd"] == 0
    one = summary.loc[(2, 1.0)]
    assert one["seeds"] == 1
    assert one["concept"] == ""
    assert one["elicitation_recovery"] == 0.5
    assert math.isnan(one["elicitation_recovery_sd"])
    assert math.isnan(one["suppression_recovery"])
    assert not [name for name in summary if name.endswith("_low") or name.startswith("param")]


def test_rows_without_any_concept_are_one() -> None:
    table = small(a={(1, 1, 1.0): 0.1, (1, 2, 1.0): 0.3}).assign(concept=math.nan)
    assert list(summarise(table)["concept"]) == [""]


def test_one_multiplier_is_the_best_of_all_concepts_together() -> None:
    table = small(
        a={
            (1, 1, 1.0): 0.1, (1, 1, 2.0): 0.9,
            (2, 1, 1.0): 0.7, (2, 1, 2.0): 0.3,
            (1, 1, 3.0): 5.0,  # concept 2 has not been measured there
        },
        b={(1, 1, 0.5): -3.0, (2, 1, 0.5): -1.0},
    )  # fmt: skip
    rows = average(table).set_index("method")
    a = rows.loc["a"]
    assert a["multiplier_elicit_oracle"] == 2.0
    assert a["elicitation_recovery_oracle"] == pytest.approx(0.6)
    assert a["kl_side_effect_elicit_oracle"] == pytest.approx(21.5)
    assert a["elicitation_recovery_unit"] == pytest.approx(0.4)
    assert a["kl_side_effect_elicit_unit"] == pytest.approx(11.5)
    assert math.isnan(a["suppression_recovery_oracle"])
    assert math.isnan(a["multiplier_suppress_oracle"])
    assert (a["concepts"], a["seeds"], a["parameters"], a["seconds"]) == (2, 1, 8, 2.0)
    b = rows.loc["b"]
    assert b["elicitation_recovery_oracle"] == -2.0
    assert math.isnan(b["elicitation_recovery_unit"])
    assert math.isnan(b["kl_side_effect_elicit_unit"])


def interval_at_1(table: pd.DataFrame, method: str) -> list[float]:
    row = average(table).set_index("method").loc[method]
    return [row[f"elicitation_recovery_unit{end}"] for end in ("", "_low", "_high")]


def test_the_interval_is_over_concepts_or_over_seeds_of_one(tmp_path: Path) -> None:
    """Seeds of a concept are averaged first; a table holds one kind of interval and names it."""
    spread = {(n, s, 1.0): 0.3 * n + 0.1 * s for n in (1, 2, 3) for s in (1, 2)}
    one = {(1, 1, 1.0): 0.4}
    several = small(a=spread, b=one)
    half = 4.302653 * 0.3 / math.sqrt(3)
    assert interval_at_1(several, "a") == pytest.approx([0.75, 0.75 - half, 0.75 + half], abs=1e-6)
    assert interval_at_1(several, "b") == pytest.approx([0.4, math.nan, math.nan], nan_ok=True)
    write_comparison(tmp_path, several, "x")
    assert "Student's 95% interval over concepts." in (tmp_path / "summary.md").read_text()
    seeds = small(a={(1, s, 1.0): 0.1 * s for s in (1, 2, 3)}, b=one)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert interval_at_1(seeds, "a") == pytest.approx([0.2, 0.2 - half, 0.2 + half], abs=1e-6)
    write_comparison(tmp_path, seeds, "x")
    text = (tmp_path / "summary.md").read_text()
    assert "Student's 95% interval over seeds" in text
    assert "interval over concepts" not in text
    same = average(small(a=dict.fromkeys(spread, 0.3))).iloc[0]
    assert same["elicitation_recovery_oracle_low"] == pytest.approx(0.3)
    assert same["elicitation_recovery_oracle_high"] == pytest.approx(0.3)


def with_gaps(table: pd.DataFrame, unclear: int) -> pd.DataFrame:
    """The table with gaps, which is not clear for a concept, and with fair measures."""
    lost = table["concept_id"] == unclear
    table = table.assign(gap_elicit=np.where(lost, -0.25, 1.5), gain_elicit=0.5)
    name = "elicitation_recovery"
    table[f"{name}_fair"] = table[name] = table[name].where(~lost)
    return table.assign(
        suppression_recovery_fair=math.nan,
        multiplier_elicit_fair=1.5,
        multiplier_suppress_fair=math.nan,
        kl_side_effect_elicit_fair=3.0,
    )


def test_a_concept_without_a_clear_gap_is_in_no_mean_and_is_named(tmp_path: Path) -> None:
    cells = {(1, 1, 1.0): 0.1, (1, 1, 2.0): 0.9, (2, 1, 1.0): 0.7, (2, 1, 2.0): 0.3}
    cells |= {(3, 1, 1.0): 0.2, (3, 1, 2.0): 0.8}
    table = with_gaps(small(a=cells), unclear=2)
    row = average(table).iloc[0]
    assert (row["multiplier_elicit_oracle"], row["concepts"]) == (2.0, 3)
    assert row["elicitation_recovery_oracle"] == pytest.approx(0.85)
    assert row["elicitation_recovery_unit"] == pytest.approx(0.15)
    assert row["elicitation_recovery_fair"] == pytest.approx(0.15)
    gaps = [row[f"gap_elicit_{strength}"] for strength in ("oracle", "fair", "unit")]
    assert gaps == pytest.approx([(1.5 - 0.25 + 1.5) / 3] * 3)
    assert row["kl_side_effect_elicit_unit"] == pytest.approx(12.0)  # it is measured all the same
    page = write_comparison(tmp_path, table, "x").read_text()
    for text in (page, (tmp_path / "summary.md").read_text()):
        assert "no clear effect on the held-out rows of concept 2 (elicit)" in text
        assert "gap elicit" in text


def test_a_comparison_without_any_clear_gap_is_written(tmp_path: Path) -> None:
    table = with_gaps(small(a={(1, 1, 1.0): 0.1, (1, 1, 2.0): 0.9}), unclear=1)
    row = average(table).iloc[0]
    assert math.isnan(row["elicitation_recovery_oracle"])
    assert math.isnan(row["multiplier_elicit_oracle"])
    assert row["kl_side_effect_elicit_unit"] == pytest.approx(11.0)
    assert write_comparison(tmp_path, table, "x").exists()
    text = (tmp_path / "summary.md").read_text()
    assert "no clear effect" in text
    assert "At the oracle" not in text  # there is nothing to choose by
    assert "## At multiplier 1\n" in text


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = synthetic()
    shuffled = average(table.sample(frac=1, random_state=0)).set_index("method")
    pd.testing.assert_frame_equal(shuffled.loc[list(METHODS)], average(table).set_index("method"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="seed"), "no column 'seed'"),
        (lambda table: table.iloc[:0], "no rows"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "two rows of method a, concept_id 1"),
    ],
)
def test_what_is_no_comparison(change: object, message: str, tmp_path: Path) -> None:
    table = change(small(a={(1, 1, 1.0): 0.1}))  # type: ignore[operator]
    for use in (summarise, average, lambda table: write_comparison(tmp_path, table, "x")):
        with pytest.raises(InputError, match=message):
            use(table)
    assert not list(tmp_path.iterdir())


def test_markdown() -> None:
    frame = pd.DataFrame(
        {
            "name": ["a|b", "two\nlines", None],
            "count": [3, 20, 1234567],
            "value": [0.48213, math.nan, -5.00312],
            "large": [123.4567, 45.678, 12345678.9],
            "small": [0.0005678, 0.5, 0.0],
        }
    )
    assert to_markdown(frame) == (
        "| name | count | value | large | small |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| a\\|b | 3 | 0.482 | 123 | 5.7e-04 |\n"
        "| two lines | 20 | – | 45.7 | 0.5 |\n"  # noqa: RUF001
        "| – | 1234567 | -5.00 | 1.2e+07 | 0 |\n"  # noqa: RUF001
    )


def test_a_method_keeps_its_colour_in_every_comparison() -> None:
    styles = method_styles([*METHODS, "cdas"])
    assert list(styles) == list(METHODS)
    assert len({style["color"] for style in styles.values()}) == len(METHODS)
    assert len({style["marker"] for style in styles.values()}) == len(METHODS)
    few = method_styles(["mine", "reps", "cdas"])
    assert (few["cdas"], few["reps"]) == (styles["cdas"], styles["reps"])
    assert few["mine"]["color"] not in (few["cdas"]["color"], few["reps"]["color"])
    assert method_styles(["mine"])["mine"]["color"] != styles["cdas"]["color"]
    others = [style for method, style in styles.items() if method != "cdas"]
    assert all(style["linewidth"] < styles["cdas"]["linewidth"] for style in others)
    assert all(style["zorder"] < styles["cdas"]["zorder"] for style in others)


def test_the_axis_is_cut_and_says_so() -> None:
    table = synthetic()
    table = table[table["concept_id"] < 10]
    for figure in (recovery_figure(summarise(table)), tradeoff_figure(average(table))):
        axes = figure.axes[0]
        assert axes.get_ylim()[0] > -1.2
        assert axes.get_ylim()[1] < 1.3
    good = table[table["elicitation_recovery"] > -0.5]
    whole, cut = recovery_figure(summarise(good)), recovery_figure(summarise(table))
    assert "cut" in cut.axes[0].get_ylabel()
    assert "cut" not in whole.axes[0].get_ylabel()
    assert len(cut.axes) == 4
    assert "$5 & <b>" in cut.axes[2].get_title(loc="left")


def test_figures_of_tables_with_little_in_them() -> None:
    bare = small(a={(n, 1, 1.0): 0.5 for n in range(14)})
    figure = recovery_figure(summarise(bare))
    assert len(figure.axes) == 24
    assert "12 of 14" in figure.get_suptitle()
    for table in (
        bare.drop(columns="kl_side_effect_elicit"),
        bare.assign(elicitation_recovery=math.nan),
        bare.assign(kl_side_effect_elicit=0.0),
    ):
        assert figure_png(tradeoff_figure(average(table))).startswith(b"\x89PNG")
        assert len(recovery_figure(summarise(table[table["concept_id"] < 2])).axes) == 4


def samples() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": method,
            "concept": concept,
            "direction": direction,
            "instruction": f"{question} for <{concept}>?",
            "text": f"{method} & {direction} <script>alert({number})</script>",
        }
        for number, (concept, direction, method, question) in enumerate(
            product(CONCEPTS.values(), ("elicit", "suppress"), ("prompt", "cdas"), ("Why", "Who"))
        )
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "new/comparison"
    return write_comparison(folder, synthetic(), "Model <1> & more", ["4 < 5"], samples())


def test_the_files(written: Path) -> None:
    folder, table = written.parent, synthetic()
    assert written.name == "comparison.html"
    assert {file.name for file in folder.iterdir()} == {
        "table.csv", "summary.csv", "summary.md", "recovery.png", "tradeoff.png", "comparison.html",
    }  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv(folder / "table.csv"), table.astype({"layers": int}))
    assert len(pd.read_csv(folder / "summary.csv")) == 12 * 4 * 4 + 4
    markdown = (folder / "summary.md").read_text()
    assert "4 < 5" in markdown
    assert "same rows" in markdown
    assert markdown.count("| cdas |") == 2
    text = written.read_text()
    for name in ("recovery.png", "tradeoff.png"):
        assert Picture((folder / name).read_bytes()).address in text


def test_the_page_holds_everything_it_shows(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert len(page.addresses) == 2
    assert len(page.texts["script"]) == 1
    assert "<h1>Model &lt;1&gt; &amp; more</h1>" in text
    assert "4 &lt; 5" in text
    assert "&lt;script&gt;alert(0)" in text
    assert "same rows" in text
    for name in METHODS:
        assert text.count(f"<td>{name}</td>") == 2 + (4 if name == "prompt" else 16)


def test_answers_to_one_instruction_stand_together(written: Path, tmp_path: Path) -> None:
    text = written.read_text()
    blocks = re.findall(r"<table class=\"answers\">(.*?)</table>", text, re.DOTALL)
    assert len(blocks) == 4 * 2 * 2
    for block in blocks:
        assert re.findall(r"<th scope=\"row\">(.*?)</th>", block) == ["cdas", "prompt"]
    table = small(a={(1, 1, 1.0): 0.5})
    assert "Samples" not in write_comparison(tmp_path, table, "x").read_text()
    with pytest.raises(InputError, match="no column 'text'"):
        write_comparison(tmp_path, table, "x", samples=samples().drop(columns="text"))
