import hashlib
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from benchmarks.axbench.sources import (
    ALPACA_EVAL,
    CONCEPT10,
    CONCEPT500,
    CONTRASTIVE,
    REVISIONS,
    Sources,
    find_sources,
)
from concept_das.errors import InputError
from concept_das.runs.files import sha256_of
from tests.benchmarks.axbench.files import (
    contrastive_frame,
    latent_frame,
    train_frame,
    write_folder,
)

TRAIN = "concept10_2b_l20_train.parquet"


def names(found: Sources) -> list[str | None]:
    paths = [found.train, found.instructions, found.latent, found.contrastive]
    return [path and path.name for path in paths]


def test_files_are_told_by_name_and_columns(tmp_path: Path) -> None:
    # The release calls its quadruples a training file too.
    write_folder(
        tmp_path,
        concept10_2b_l20_latent_eval=latent_frame(),
        contrast_train_data=contrastive_frame(),
        preference_train=train_frame().rename(columns={"output": "winning_output"}),
    )
    (tmp_path / "notes.txt").write_text("x")
    found = find_sources(str(tmp_path))
    used = [
        TRAIN,
        "alpaca_eval.json",
        "concept10_2b_l20_latent_eval.parquet",
        "contrast_train_data.parquet",
    ]
    assert names(found) == used
    assert found.sha256 == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in used
    }


def test_what_is_optional_may_be_missing(tmp_path: Path) -> None:
    found = find_sources(str(write_folder(tmp_path)))
    assert names(found) == [TRAIN, "alpaca_eval.json", None, None]
    assert set(found.sha256) == {TRAIN, "alpaca_eval.json"}


def test_files_of_several_cells_need_a_cell(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        concept10_2b_l10_train=train_frame(),
        concept10_2b_l10_latent_eval=latent_frame(),
        concept10_2b_l20_latent_eval=latent_frame(),
    )
    with pytest.raises(InputError, match=r"more than one AxBench training file.*2b_l10.*2b_l20"):
        find_sources(str(tmp_path))
    found = find_sources(str(tmp_path), "2b-l10")
    assert found.train.name == "concept10_2b_l10_train.parquet"
    assert found.latent is not None
    assert found.latent.name == "concept10_2b_l10_latent_eval.parquet"
    with pytest.raises(InputError, match="no AxBench training file .* of cell 9b-l31"):
        find_sources(str(tmp_path), cell="9b-l31")


@pytest.mark.parametrize("copied", ["latent_eval", "contrast"])
def test_two_files_of_one_kind_are_named(tmp_path: Path, copied: str) -> None:
    frame = latent_frame() if copied == "latent_eval" else contrastive_frame()
    write_folder(tmp_path, **{f"a_{copied}": frame, f"b_{copied}": frame})
    with pytest.raises(InputError, match=f"more than one .*a_{copied}.parquet, b_{copied}.parquet"):
        find_sources(str(tmp_path))


def test_a_missing_or_broken_file_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    Hub(tmp_path / "empty", monkeypatch)
    (write_folder(tmp_path) / "alpaca_eval.json").unlink()
    with pytest.raises(InputError, match=r"no alpaca_eval\.json"):
        find_sources(str(tmp_path))
    (tmp_path / TRAIN).write_bytes(b"not parquet")
    with pytest.raises(InputError, match=f"{TRAIN} cannot be read"):
        find_sources(str(tmp_path))
    (tmp_path / TRAIN).unlink()
    with pytest.raises(InputError, match="no AxBench training file"):
        find_sources(str(tmp_path))
    with pytest.raises(InputError, match="neither a folder nor one of pyvene/axbench-concept500"):
        find_sources(str(tmp_path / "nowhere"))


QUADRUPLES = "contrast_train_data.parquet"


def write_checkout(root: Path, cells: tuple[str, ...] = ("2b_l20", "9b_l20")) -> Path:
    """The release's folders, with the quadruples of some cells."""
    for cell in cells:
        folder = root / f"experiments/axbench/data/concept500/aug_gpt_prod_{cell}_v1/generate"
        folder.mkdir(parents=True)
        contrastive_frame().to_parquet(folder / QUADRUPLES)
    return root


@pytest.mark.parametrize("start", ["", "experiments/axbench/data"])
def test_a_checkout_of_the_release(tmp_path: Path, start: str) -> None:
    above = write_checkout(tmp_path) / start
    (above / "alpaca_eval.json").write_text("[]")
    found = find_sources(str(above), "9b-l20")
    assert found.train is None
    assert found.contrastive is not None
    assert found.contrastive.parent.parent.name == "aug_gpt_prod_9b_l20_v1"
    quadruples = found.contrastive.relative_to(above).as_posix()
    assert set(found.sha256) == {quadruples, "alpaca_eval.json"}
    usual = find_sources(str(above), None, "2b-l20").contrastive
    assert usual is not None
    assert usual.parent.parent.name == "aug_gpt_prod_2b_l20_v1"


@pytest.mark.parametrize("inside", ["", "generate"])
def test_one_folder_of_the_release(tmp_path: Path, inside: str) -> None:
    root = write_checkout(tmp_path, ("2b_l20",))
    folder = root / "experiments/axbench/data/concept500/aug_gpt_prod_2b_l20_v1" / inside
    (folder / "alpaca_eval.json").write_text("[]")
    assert names(find_sources(str(folder))) == [None, "alpaca_eval.json", None, QUADRUPLES]
    with pytest.raises(InputError, match="no AxBench training file .* of cell 2b-l10"):
        find_sources(str(folder), "2b-l10")


def test_a_checkout_of_axbench(tmp_path: Path) -> None:
    cell = tmp_path / "axbench/concept10/prod_9b_it_l20_v1"
    for part, name, frame in (
        ("generate", "train_data", train_frame()),
        ("inference", "latent_eval_data", latent_frame()),
    ):
        (cell / part).mkdir(parents=True)
        frame.to_parquet(cell / part / f"{name}.parquet")
    write_folder(tmp_path / "axbench/data", concept10_2b_l20_train=None)
    found = find_sources(str(tmp_path), "9b-l20")
    used = ["train_data.parquet", "alpaca_eval.json", "latent_eval_data.parquet", None]
    assert names(found) == used


def test_instructions_that_a_folder_has_not_are_the_hubs(hub: "Hub", tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    (folder / "alpaca_eval.json").unlink()
    found = find_sources(str(folder))
    assert hub.asked == [(ALPACA_EVAL, "alpaca_eval.json", REVISIONS[ALPACA_EVAL])]
    assert set(found.sha256) == {TRAIN, f"{ALPACA_EVAL}/alpaca_eval.json"}


def write_sums(folder: Path, form: str, sums: dict[str, str]) -> None:
    if form == "checksums.json":
        (folder / form).write_text(json.dumps(sums))
    else:
        lines = [f"{digest} *{name}\n" for name, digest in sums.items()]
        (folder / form).write_text("\n" + "".join(lines))


@pytest.mark.parametrize("form", ["checksums.json", "SHA256SUMS"])
def test_checksums_are_verified(tmp_path: Path, form: str) -> None:
    write_folder(tmp_path)
    sums = {TRAIN: sha256_of(tmp_path / TRAIN).upper(), "not used.txt": "0" * 64}
    write_sums(tmp_path, form, sums)
    assert find_sources(str(tmp_path)).sha256[TRAIN] == sums[TRAIN].lower()
    frame = train_frame()
    frame.loc[0, "output"] = "changed"
    frame.to_parquet(tmp_path / TRAIN)
    with pytest.raises(InputError, match=f"{TRAIN} is not the file that {form} names"):
        find_sources(str(tmp_path))


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("checksums.json", "{", "cannot be read as a list of checksums"),
        ("checksums.json", '{"a": 1}', "cannot be read as a list of checksums"),
        ("checksums.json", "3", "cannot be read as a list of checksums"),
        ("SHA256SUMS", "word\n", "cannot be read as a list of checksums"),
        ("SHA256SUMS", "abc  file\n", "gives 'abc' for file, which is not a SHA-256"),
    ],
)
def test_damaged_checksums(tmp_path: Path, form: str, content: str, message: str) -> None:
    (write_folder(tmp_path) / form).write_text(content)
    with pytest.raises(InputError, match=f"{form} {message}"):
        find_sources(str(tmp_path))


class Missing(RepositoryNotFoundError):
    """Versions of huggingface_hub build theirs differently."""

    def __init__(self) -> None:
        OSError.__init__(self, "404")


class Hub:
    """Stands for the hub: repositories are folders, and what was asked for is kept."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.asked: list[tuple[str, str, str | None]] = []
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.download)
        monkeypatch.setattr("huggingface_hub.list_repo_files", self.files)

    def add(self, repository: str, path: str, frame: pd.DataFrame) -> None:
        target = self.root / repository / path
        target.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(target)

    def download(self, repo: str, path: str, *, repo_type: str, revision: str | None) -> str:
        assert repo_type == "dataset"
        self.asked.append((repo, path, revision))
        if not (self.root / repo / path).exists():
            raise OSError("404: no such file\nsecond line")
        return str(self.root / repo / path)

    def files(self, repo: str, **_: Any) -> list[str]:
        folder = self.root / repo
        if not folder.exists():
            raise Missing
        return [str(path.relative_to(folder)) for path in folder.rglob("*.*")]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub", monkeypatch)
    for repository in (CONCEPT500, CONCEPT10):
        hub.add(repository, "9b/l20/train/data.parquet", train_frame())
        hub.add(repository, "9b/l20/test/data.parquet", latent_frame())
    for cell in ("9b_l20", "2b_l20"):
        hub.add(CONTRASTIVE[1], f"prod_{cell}_v1/contrast_train_data.parquet", contrastive_frame())
    write_folder(tmp_path / "own")
    (tmp_path / "hub" / ALPACA_EVAL).mkdir(parents=True)
    shutil.copy(tmp_path / "own/alpaca_eval.json", tmp_path / "hub" / ALPACA_EVAL)
    return hub


@pytest.mark.parametrize("source", ["hub", CONCEPT500])
def test_the_layout_on_the_hub(hub: Hub, source: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = find_sources(source, "9b-l20")
    contrastive = "prod_9b_l20_v1/contrast_train_data.parquet"
    at = REVISIONS[CONCEPT500]
    assert sorted(hub.asked) == [
        (CONTRASTIVE[1], contrastive, None),
        (CONCEPT500, "9b/l20/test/data.parquet", at),
        (CONCEPT500, "9b/l20/train/data.parquet", at),
        (ALPACA_EVAL, "alpaca_eval.json", REVISIONS[ALPACA_EVAL]),
    ]
    assert set(found.sha256) == {f"{repository}/{path}" for repository, path, _ in hub.asked}
    assert found.sha256[f"{CONTRASTIVE[1]}/{contrastive}"] == sha256_of(
        hub.root / CONTRASTIVE[1] / contrastive
    )
    assert f"quadruples: {contrastive} of {CONTRASTIVE[1]}" in caplog.text


def test_quadruples_are_of_concept500s_concepts(hub: Hub) -> None:
    assert find_sources(CONCEPT10, "9b-l20").contrastive is None
    assert {(repository, at) for repository, _, at in hub.asked} == {
        (name, REVISIONS[name]) for name in (CONCEPT10, ALPACA_EVAL)
    }


@pytest.mark.parametrize("count", [0, 2])
def test_quadruples_on_the_hub_are_used_only_if_it_is_clear_which(
    hub: Hub, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    if count:
        hub.add(CONTRASTIVE[1], "9b/l20/more.parquet", contrastive_frame())
    else:
        (hub.root / CONTRASTIVE[1] / "prod_9b_l20_v1/contrast_train_data.parquet").unlink()
    with caplog.at_level(logging.WARNING):
        assert find_sources(CONCEPT500, cell="9b-l20").contrastive is None
    assert f"{CONTRASTIVE[1]} has {count} parquet files of cell 9b-l20" in caplog.text


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_quadruples_under_any_of_their_names(hub: Hub, name: str) -> None:
    (hub.root / CONTRASTIVE[1]).rename(hub.root / "kept")
    (hub.root / "kept").rename(hub.root / name)
    found = find_sources("hub", None, "9b-l20").contrastive
    assert found is not None
    assert found.is_relative_to(hub.root / name)


def test_a_hub_without_quadruples(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(hub.root / CONTRASTIVE[1])
    with caplog.at_level(logging.WARNING):
        assert find_sources("hub", "9b-l20").contrastive is None
    assert f"the hub has none of {', '.join(CONTRASTIVE)}" in caplog.text


def test_what_the_hub_does_not_give_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has several cells; choose one of 2b-l10"):
        find_sources(CONCEPT500)
    message = "2b/l10/train/data.parquet of pyvene/axbench-concept500 (404: no such file); check"
    with pytest.raises(InputError, match=re.escape(message)):
        find_sources(CONCEPT500, cell="2b-l10")

    def offline(*_: Any, **__: Any) -> list[str]:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.list_repo_files", offline)
    with pytest.raises(InputError, match=r"list of files of colored-dye.*\(ConnectionError\)"):
        find_sources(CONCEPT500, cell="9b-l20")
