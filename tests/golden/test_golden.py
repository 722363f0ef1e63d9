"""Today's code against the record of an earlier one; see README.md beside this file."""

import json
import logging
from pathlib import Path

import pytest
import transformers

from tests.golden.files import differences
from tests.golden.record import EXPECTED, OF_ARGPARSE, PARTS, PYTHON, SLOW, record

_SHOWN = 40

_MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PARTS]


@pytest.mark.parametrize("part", _MARKED)
def test_nothing_has_changed(part: str, tmp_path: Path) -> None:
    recorded = json.loads((EXPECTED / "python.json").read_text())
    if part in OF_ARGPARSE and recorded != PYTHON:
        pytest.skip(f"recorded with Python {recorded}, whose argparse has other words")
    if part == "variants" and transformers.__version__.startswith("4."):
        pytest.skip("transformers 4 loads another tokenizer for the tiny Qwen2")
    (tmp_path / "work").mkdir()
    logging.disable(logging.INFO)
    try:
        record(part, tmp_path / "found", (tmp_path / "work").resolve())
    finally:
        logging.disable(logging.NOTSET)
    lines = differences(EXPECTED / part, tmp_path / "found")
    more = f"\nand {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    assert not lines, "\n".join(lines[:_SHOWN]) + more
