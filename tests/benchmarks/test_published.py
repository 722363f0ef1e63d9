"""The published numbers of every benchmark hold together; they are read off, not measured here."""

from pathlib import Path

import pandas as pd
import pytest

import benchmarks
from benchmarks.axbench.published import CELLS, read_published

ROOT = Path(benchmarks.__file__).parent
FILES = sorted(ROOT.glob("*/published*.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_row_is_there_once_with_a_source(path: Path) -> None:
    table = pd.read_csv(path, keep_default_na=False)
    assert (table["source"] != "").all()
    keys = [name for name in ("cell", "model", "method", "factor", "layer") if name in table]
    assert not table.duplicated(keys).any()


def test_the_harmonic_mean_of_refusal_is_that_of_its_parts() -> None:
    table = pd.read_csv(ROOT / "refusal" / "published.csv")
    both = table["elicitation"] + table["suppression"]
    harmonic = 2 * table["elicitation"] * table["suppression"] / both
    assert harmonic.tolist() == pytest.approx(table["harmonic_mean"].tolist(), abs=0.0051)
    assert len(table) == table["model"].nunique() * table["method"].nunique() == 12


def test_shares_are_shares_and_divergences_are_positive() -> None:
    for path in FILES:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
        for name in table.columns:
            if name.endswith("_change"):
                assert table[name].abs().max() < 0.5
            elif name.endswith("_success") or name in ("suppression", "elicitation", "tinymmlu"):
                assert table[name].dropna().between(0, 1).all()
            elif name.startswith("kl"):
                assert (table[name] > 0).all()


def test_the_layers_of_the_backdoor_agree_with_its_table() -> None:
    layers = pd.read_csv(ROOT / "backdoor" / "published_layers.csv")
    assert set(layers.groupby("method").size()) == {6}
    of_cdas = layers[(layers["method"] == "cdas") & (layers["layer"] == 16)]
    table = pd.read_csv(ROOT / "backdoor" / "published.csv").set_index("method")
    told = table.loc["cdas", "triggered_attack_success"]
    assert of_cdas["triggered_attack_success"].tolist() == pytest.approx([told], abs=0.01)


def test_choosing_on_the_reported_half_is_never_worse() -> None:
    wide = read_published().pivot(index=["method", "cell"], columns="factor", values="score")
    cdas = wide.loc["cdas"]
    assert set(cdas.index) == set(CELLS)
    assert (cdas["unit"] < cdas["tuned"]).all()
    assert (cdas["tuned"] < cdas["oracle"]).all()


def test_learned_factors_and_few_tokens_each_help() -> None:
    tuned = read_published().query("factor == 'tuned'").set_index(["method", "cell"])["score"]
    for whole, joint, few in (
        ("lang", "lang_joint", "prosv_lang"),
        ("reps", "reps_joint", "prosv_simpo"),
    ):
        for cell in ("2b-l10", "9b-l20", "qwen2.5-32b-l32"):
            assert tuned[whole, cell] < tuned[few, cell]
            assert tuned[joint, cell] < tuned[few, cell]
