import pytest

from benchmarks.judges.options import JudgeOptions
from concept_das.errors import InputError


def test_a_local_judge_has_a_name() -> None:
    with pytest.raises(InputError, match="name the chat model that judges with --judge-model"):
        JudgeOptions("local")
