"""Every table of the paper is listed and made, with models and data from a hub on loopback."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.paper.__main__ import main, run
from benchmarks.paper.entries import RESULTS, read_entries
from tests.benchmarks.judges.server import Served
from tests.benchmarks.release import World, small_world
from tests.hub import Hub
from tests.tiny import TINY_ARCHITECTURES

ENTRIES = read_entries()
MADE = [name for name, entry in ENTRIES.items() if list(entry.presets())]


@pytest.fixture
def world(full_hub: Hub, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    full_hub.use_in_process(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return small_world(tmp_path / "release", served, monkeypatch)


# Between them every architecture, benchmark and kind of run.
QUICK = ("axbench-models", "refusal", "backdoor", "backdoor-layers")


@pytest.mark.parametrize(
    ("name", "few"),
    [
        *((name, True) for name in QUICK),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in MADE),
    ],
)
def test_a_table_is_made(
    name: str,
    few: bool,
    world: World,
    full_hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = ENTRIES[name]
    if few:  # one method, and the last model of each family
        last = {name.partition("-")[0]: name for name in entry.runs}
        entry = replace(entry, runs={name: entry.runs[name] for name in last.values()})
    if "allenai" in str(entry.needs()) and "olmo2" not in TINY_ARCHITECTURES:
        pytest.skip("this transformers has no OLMo-2")
    full_hub.asked.clear()
    words = [*world.flags(entry), *(["--methods=cdas"] if few else [])]
    assert run(entry, tmp_path / "out", words) == 0
    assert "open " in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/table.csv")
    assert set(table["run"]) == set(entry.runs)
    assert set(table.loc[table["measured"].notna(), "run"]) == set(entry.runs)
    for model in {preset.model for _, preset in entry.presets()} - {None}:
        assert any(model in request for request in full_hub.asked)
    assert ("Llama-3.1-70B" in str(entry.needs())) == bool(world.in_four_bits)


def test_published_and_measured_numbers_stand_side_by_side(
    world: World, full_hub: Hub, tmp_path: Path
) -> None:
    whole = ENTRIES["axbench-factors"]
    entry = replace(whole, runs={"2b-l10": whole.runs["2b-l10"]})
    out, words = tmp_path / "out", world.flags(entry)
    assert run(entry, out, words) == 0
    table = pd.read_csv(out / "table.csv").set_index(["method", "what"])
    assert table["published"]["cdas", "fair"] == 0.631
    assert table["published"]["cdas", "oracle"] == 0.662
    assert 0 <= table["measured"]["cdas", "fair"] <= 2
    assert 0 <= table["measured"]["cdas", "fixed"] <= 2
    # A method that this project does not have
    assert table["published"]["sae", "fair"] == 0.177
    assert pd.isna(table["measured"]["sae", "fair"])
    text = (out / "table.md").read_text()
    assert "| sae | fair | - / 0.177 |" in text
    assert "/ 0.631 |" in text
    assert "not the paper's model" not in text
    # Given again, nothing is done again.
    asked = len(full_hub.asked)
    assert run(entry, out, words) == 0
    assert not any("safetensors" in request for request in full_hub.asked[asked:])


def test_another_model_is_said_to_be_one(world: World, tmp_path: Path) -> None:
    whole = ENTRIES["axbench-factors"]
    entry = replace(whole, runs={"2b-l10": whole.runs["2b-l10"]})
    other = ["--model", "meta-llama/Llama-3.1-8B-Instruct"]
    assert run(entry, tmp_path / "out", [*other, *world.flags(entry)]) == 0
    text = (tmp_path / "out/table.md").read_text()
    assert "**Measured on meta-llama/Llama-3.1-8B-Instruct, which is not the paper's" in text


def test_the_list_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name, entry in ENTRIES.items():
        assert f"{name}: {entry.title}\n  run       python -m benchmarks.paper {name}" in listed
        assert all(path in listed for path in entry.results)
        assert all((RESULTS / path).exists() for path in entry.results)
    assert "google/gemma-2-2b-it: 2.6 billion weights, 5 GB in bfloat16" in listed
    assert "meta-llama/Llama-3.1-70B-Instruct: 70.6 billion weights, 35 GB in 4 bits" in listed


@pytest.mark.parametrize("name", ENTRIES)
def test_a_plan_is_printed_without_a_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    presets = list(ENTRIES[name].presets())
    assert printed.count("Nothing has been run") == len(presets)
    # The listed price is the plans' own.
    planned = re.findall(r"about \$([\d,.]+) at", printed)
    assert sum(float(one.replace(",", "")) for one in planned) == pytest.approx(
        ENTRIES[name].judge_cost(), abs=0.01 * len(presets)
    )
    assert presets or "cdas" in printed
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["table-9"]) == 2
    assert "there is no table 'table-9'; choose from axbench-main" in capsys.readouterr().err
    for more in ([], ["--dry-run", "false"], ["--dry_run=False"]):
        assert main(["refusal", *more]) == 2
        assert "refusal needs --data: a checkout of the authors' release" in capsys.readouterr().err
    assert main(["backdoor", "--data=here"]) == 2
    assert "backdoor needs --model: a backdoored chat model" in capsys.readouterr().err
    assert main(["axbench-factors", "--methods=none"]) == 2  # the command's own complaint
    assert "'none' is named twice or not in gemma-2-2b-l10" in capsys.readouterr().err
