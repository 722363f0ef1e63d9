import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from concept_das.errors import InputError
from concept_das.training.state_cache import GIGABYTE, CacheBudget

CPU = torch.device("cpu")


def test_entries_come_back_from_memory_and_from_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    entries = [torch.randn(length, 4) for length in (3, 1, 5)]
    for limit, where in ((None, "144B in memory"), (0.0, f"144B in a file in {tmp_path}")):
        store = CacheBudget(CPU, limit, tmp_path).store("states", [3, 1, 5], 4, torch.float32)
        for index in (2, 0, 1):
            store.put(index, entries[index])
        for index, entry in enumerate(entries):
            assert torch.equal(store.get(index), entry)
        assert f"cache: states, {where}" in caplog.text


def test_the_file_goes_with_its_data(tmp_path: Path) -> None:
    store = CacheBudget(CPU, 0.0, tmp_path).store("states", [2], 4, torch.float32)
    assert len(list(tmp_path.iterdir())) == 1
    del store
    assert list(tmp_path.iterdir()) == []


def test_the_limit_holds_for_all_stores_together(tmp_path: Path) -> None:
    budget = CacheBudget(CPU, 200 / GIGABYTE, tmp_path)
    first = budget.store("states", [4], 8, torch.float32)  # 128 bytes
    assert not list(tmp_path.iterdir())
    second = budget.store("states", [4], 8, torch.float32)  # 128 more are too many
    assert len(list(tmp_path.iterdir())) == 1
    third = budget.store("states", [2], 8, torch.float32)  # 64 still fit
    assert len(list(tmp_path.iterdir())) == 1
    assert [len(store.data) for store in (first, second, third)] == [4, 4, 2]


def test_half_of_what_is_free_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    budget = CacheBudget(CPU)
    assert budget.place(500) == CPU
    assert budget.place(501) is None


def test_limits_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit is -1.0 GB; give 0 or more"):
        CacheBudget(CPU, -1.0)
    with pytest.raises(InputError, match="no folder .*missing for the cache; make it first"):
        CacheBudget(CPU, None, tmp_path / "missing")


def test_a_cache_that_does_not_fit_on_the_disk_is_refused_before_it_is_written(
    small_disk: Callable[[int], Path],
) -> None:
    folder = small_disk(16)
    budget = CacheBudget(CPU, 0.0, folder)
    with pytest.raises(InputError, match=rf"needs 64.0kB in {folder}, where .*kB are free; n"):
        budget.store("states", [1024], 16, torch.float32)
    assert list(folder.iterdir()) == []
    budget.store("states", [32], 16, torch.float32).put(0, torch.ones(32, 16))


@pytest.mark.parametrize(
    ("number", "kind", "sentence"),
    [
        (errno.ENOSPC, InputError, "the cache of hidden states needs 32.0B in"),
        (errno.EDQUOT, InputError, "the cache of hidden states needs 32.0B in"),
        (errno.EFBIG, OSError, "File too large: .*states.bin"),
    ],
)
def test_what_the_disk_says_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: Any, sentence: str
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(kind, match=sentence):
        CacheBudget(CPU, 0.0, tmp_path).store("states", [2], 4, torch.float32)
    assert list(tmp_path.iterdir()) == []
