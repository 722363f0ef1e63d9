"""The command that prints the agreement with labelled answers."""

from pathlib import Path

import pytest

from benchmarks.agreement import agreement
from benchmarks.detectors.labelled import labelled_refusals
from benchmarks.judges.options import JudgeOptions
from tests.benchmarks.judges.server import Served, completion


def test_rules_and_judge_are_printed_side_by_side(
    served: Served,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    agreement(JudgeOptions())
    assert "judge" not in capsys.readouterr().out
    assert not served.requests
    served.otherwise = lambda _request: completion("Refusal: [[yes]]")
    agreement(JudgeOptions("api", "a-judge", served.url, tmp_path / "answers.sqlite"))
    said = capsys.readouterr().out
    refusals = sum(one.label for one in labelled_refusals())
    (line,) = [line for line in said.splitlines() if "judge a-judge" in line]
    assert f"{refusals}/217" in line
    assert "0 of 112" in line
    assert "105 of 105" in line
    (line,) = [line for line in said.splitlines() if line.startswith("plain")]
    assert line.split() == ["plain", *["7", "of", "7"], *["7", "of", "7"]]
