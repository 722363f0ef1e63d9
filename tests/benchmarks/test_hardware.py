from pathlib import Path

import pytest

from benchmarks import hardware
from benchmarks.hardware import GPUS, engine_share, find_hardware
from concept_das.errors import InputError


def test_the_committed_share_is_one() -> None:
    share = engine_share()
    assert 0 < share.value <= 1
    assert "CPU" in share.source


@pytest.mark.parametrize("text", [None, "", "{}", '{"gemm_fraction": 2, "cores": 2, "torch": "2"}'])
def test_a_share_that_is_not_there_is_said(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "speed.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="benchmarks.speed"):
        engine_share(path)


def test_gpus_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(find_hardware(name) is gpu for name, gpu in GPUS.items())
    monkeypatch.setattr(hardware, "attainable_gemm", lambda *_: 2e11)
    cpu = find_hardware("cpu")
    assert cpu.flops == 2e11
    assert cpu.bandwidth > 1e8
    with pytest.raises(InputError, match="A100-80GB"):
        find_hardware("TPU")
