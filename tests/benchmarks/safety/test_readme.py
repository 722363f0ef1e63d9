"""The commands of the README exist, with the flags that it gives them."""

import re
import shlex
from pathlib import Path

import pytest

import benchmarks.safety
from benchmarks.backdoor.__main__ import backdoor
from benchmarks.backdoor.presets import PRESETS as BACKDOOR
from benchmarks.refusal.__main__ import refusal
from benchmarks.refusal.presets import PRESETS as REFUSAL
from concept_das.cli import _parser_of, _underscored

README = (Path(benchmarks.safety.__file__).parent / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"python -m benchmarks\.(refusal|backdoor) ", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line: str) -> None:
    words = shlex.split(line)
    command, presets = (
        (refusal, REFUSAL) if words[2] == "benchmarks.refusal" else (backdoor, BACKDOOR)
    )
    options = _parser_of(command).parse_args([_underscored(word) for word in words[3:]])
    assert options.preset in presets
    assert options.out


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 5
