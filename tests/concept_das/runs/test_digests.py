import json
import os
from pathlib import Path
from typing import Any

import pytest

from concept_das.runs import digests
from concept_das.runs.digests import whole_digest


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCEPT_DAS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a.safetensors", "b.safetensors", "README.md"):
        (folder / name).write_bytes(bytes(3 << 20))
    return folder


def test_a_byte_in_the_middle_is_noticed(shards: Path) -> None:
    before = whole_digest(shards, ["*.safetensors"])
    with (shards / "b.safetensors").open("r+b") as file:
        file.seek(3 << 19)
        file.write(b"x")
    assert whole_digest(shards, ["*.safetensors"]) != before
    (shards / "README.md").write_text("other")
    assert whole_digest(shards, ["*.safetensors"]) != before
    assert whole_digest(shards / "none", ["*"]) is None


def test_a_file_is_read_again_only_if_size_or_time_changed(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path, original: Any = digests.sha256_of) -> Any:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    first = whole_digest(shards, ["*.safetensors"])
    assert whole_digest(shards, ["*.safetensors"]) == first
    assert read == ["a.safetensors", "b.safetensors"]
    os.utime(shards / "a.safetensors", (1, 1))
    assert whole_digest(shards, ["*.safetensors"]) == first
    assert read[2:] == ["a.safetensors"]


@pytest.mark.parametrize("damage", ["", "[]", None])
def test_without_a_cache_all_is_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    first = whole_digest(shards, ["*.safetensors"])
    if damage is None:
        monkeypatch.setenv("CONCEPT_DAS_CACHE", str(shards / "README.md"))
    else:
        cache = shards.parent / "cache/file-digests.json"
        assert len(json.loads(cache.read_text())) == 2
        cache.write_text(damage)
    assert whole_digest(shards, ["*.safetensors"]) == first
