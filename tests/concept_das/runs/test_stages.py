import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from concept_das.errors import InputError, UnfinishedError
from concept_das.runs.files import write_atomically
from concept_das.runs.running import run_stages
from concept_das.runs.stages import Job, Piece, Stage, stage_names
from tests.benchmarks.tiny_benchmark import (
    EACH,
    GATHERING,
    NEEDS,
    PIECES,
    ROWS,
    content,
    run,
    start,
)

ALL = "concept-0+concept-1+concept-2"


def stages_in(rows: list[str]) -> set[str]:
    return {row.split()[0] for row in rows}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[str]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    rows = run(folder)
    return content(folder), rows


def test_every_job_is_run_once_and_in_order(
    undisturbed: tuple[dict[str, bytes], list[str]],
) -> None:
    expected = [
        f"{name} {key} {row}"
        for name in NEEDS
        for key in ([ALL] if name in GATHERING else [piece.key for piece in PIECES])
        for row in ROWS
    ]
    assert undisturbed[1] == expected
    folders = {f"{name}/{piece.key}" for name in EACH for piece in PIECES} | {*GATHERING}
    files = {f"{folder}/{name}" for folder in folders for name in ("table.parquet", "done.json")}
    assert set(undisturbed[0]) == files | {f"{folder}/more/sum.json" for folder in folders}


def test_nothing_is_run_twice(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = content(tmp_path / "out")
    assert run(tmp_path / "out") == []
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("data", {*NEEDS}),
        ("factors", {"factors", "generate", "judge", "select", "test", "report"}),
        ("select", {"select", "test", "report"}),
        ("test", {"test", "report"}),
        ("report", {"report"}),
    ],
)
def test_changed_options_run_what_depends_on_them(
    tmp_path: Path, name: str, again: set[str]
) -> None:
    run(tmp_path / "out")
    rows = run(tmp_path / "out", {name: {"add": 1}})
    assert stages_in(rows) == again
    assert len(rows) == len(set(rows))
    assert sum(row.startswith(f"{name} ") for row in rows) == (3 if name in GATHERING else 9)
    run(tmp_path / "fresh", {name: {"add": 1}})
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_options_that_change_no_file_run_their_own_stage_alone(tmp_path: Path) -> None:
    run(tmp_path / "out")
    assert stages_in(run(tmp_path / "out", {"train": {"batch": 2}})) == {"train"}
    assert run(tmp_path / "out", {"train": {"batch": 2}}) == []


def test_a_changed_piece_leaves_the_others_alone(tmp_path: Path) -> None:
    run(tmp_path / "out")
    pieces = [PIECES[0], replace(PIECES[1], inputs={"start": 7}), PIECES[2]]
    rows = run(tmp_path / "out", pieces=pieces)
    before_select = {row.split()[1] for row in rows if row.split()[0] in EACH[:-1]}
    assert before_select == {"concept-1"}
    # What was selected over all pieces has changed.
    assert sum(row.startswith("test ") for row in rows) == 9


def test_more_pieces_leave_the_first_alone(tmp_path: Path) -> None:
    run(tmp_path / "out", pieces=PIECES[:2])
    rows = run(tmp_path / "out")
    assert {row.split()[1] for row in rows if row.startswith("judge")} == {"concept-2"}
    run(tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_the_fingerprint_is_of_every_part_and_of_nothing_else(tmp_path: Path) -> None:
    def fingerprint(second: Stage, piece: Piece, written: bytes, folder: str = "out") -> str:
        first = Stage("first", lambda job: write_atomically(job.folder / "x", written))
        run_stages([first, second], [piece], tmp_path / folder)
        done = json.loads((tmp_path / folder / "second" / piece.key / "done.json").read_text())
        return str(done["fingerprint"])

    stage = Stage("second", lambda job: None, ("first",), {"a": 1, "b": [2.0]})
    piece = Piece("p", {"c": "d"})
    plain = fingerprint(stage, piece, b"x")
    same = [
        fingerprint(stage, piece, b"x", "elsewhere"),
        fingerprint(replace(stage, options={"b": (2.0,), "a": 1}), piece, b"x"),
        fingerprint(replace(stage, run=lambda job: print()), piece, b"x"),
    ]
    assert same == [plain] * 3
    changed = [
        fingerprint(replace(stage, version=2), piece, b"x"),
        fingerprint(replace(stage, options={"a": 1, "b": [2.5]}), piece, b"x"),
        fingerprint(replace(stage, needs=()), piece, b"x"),
        fingerprint(stage, Piece("q", {"c": "d"}), b"x"),
        fingerprint(stage, Piece("p", {"c": "e"}), b"x"),
        fingerprint(stage, piece, b"y"),
    ]
    assert len({plain, *changed}) == 7


@pytest.mark.parametrize("damage", ["edit", "delete", "torn done.json"])
def test_a_damaged_output_is_made_again(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "out")
    before = content(tmp_path / "out")
    job = tmp_path / "out" / "generate" / "concept-1"
    if damage == "edit":
        (job / "table.parquet").write_bytes(b"other")
    elif damage == "delete":
        (job / "more" / "sum.json").unlink()
    else:
        (job / "done.json").write_text('{"fingerp')
    rows = run(tmp_path / "out")
    assert rows == [f"generate concept-1 {row}" for row in ROWS]
    assert content(tmp_path / "out") == before


def test_files_of_the_old_options_do_not_stay(tmp_path: Path) -> None:
    def stage(name: str) -> Stage:
        return Stage(
            "s", lambda job: write_atomically(job.folder / name / "x", b""), options={"n": name}
        )

    run_stages([stage("old")], [Piece("p")], tmp_path)
    run_stages([stage("new")], [Piece("p")], tmp_path)
    assert {*content(tmp_path)} == {"s/p/new/x", "s/p/done.json"}


def test_an_interrupted_job_finds_its_scratch_but_none_of_another_version(tmp_path: Path) -> None:
    seen: list[tuple[list[str], bool]] = []

    def fails_at_first(job: Job) -> None:
        assert [path.name for path in job.folder.iterdir()] == [job.scratch.name]
        with job.rows() as log:
            seen.append((log.missing(["a", "b"]), (job.scratch / "progress").exists()))
            if log.missing(["a"]):
                log.append("a", {"x": 1})
                write_atomically(job.scratch / "progress", b"")
                write_atomically(job.folder / "half of the files", b"")
                raise RuntimeError("broken")

    stage = Stage("s", fails_at_first)
    with pytest.raises(RuntimeError):
        run_stages([stage], [Piece("p")], tmp_path)
    with pytest.raises(RuntimeError):
        run_stages([replace(stage, version=2)], [Piece("p")], tmp_path)
    run_stages([replace(stage, version=2)], [Piece("p")], tmp_path)
    assert seen == [(["a", "b"], False), (["a", "b"], False), (["b"], True)]
    assert {*content(tmp_path)} == {"s/p/done.json"}


def test_a_stage_alone(tmp_path: Path) -> None:
    run(tmp_path / "out", only=("data", "train", "factors", "generate"))
    rows = run(tmp_path / "out", only=("judge",))
    assert stages_in(rows) == {"judge"}
    assert len(rows) == 9
    assert stages_in(run(tmp_path / "out")) == {"select", "test", "report"}


def test_a_stage_alone_names_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "generate" / "concept-1")
    with pytest.raises(InputError, match=r"^judge needs generate of concept-1, which"):
        run(tmp_path / "out", only=("judge",))


def test_a_stage_alone_names_what_is_stale(tmp_path: Path) -> None:
    run(tmp_path / "out")
    before = content(tmp_path / "out")
    names = "concept-0, concept-1, concept-2"
    for changed in ("generate", "data"):
        with pytest.raises(InputError, match=rf"^judge needs generate of {names}, which"):
            run(tmp_path / "out", {changed: {"add": 1}}, only=("judge",))
    assert content(tmp_path / "out") == before


# A job's chances: one before each of three rows, one before and one after each of two files.
@pytest.mark.parametrize(
    ("stage", "chance"),
    [
        *((stage, 2) for stage in NEEDS),
        *((stage, 6 + 3) for stage in EACH),
        *((stage, chance) for stage in ("generate", "report") for chance in (1, 4, 5, 6)),
    ],
)
def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path,
    undisturbed: tuple[dict[str, bytes], list[str]],
    stage: str,
    chance: int,
) -> None:
    trace = tmp_path / "trace"
    assert start(tmp_path / "out", trace, (stage, chance))() == -signal.SIGKILL
    killed = trace.read_text().splitlines() if trace.exists() else []
    assert killed == undisturbed[1][: len(killed)]
    rows = run(tmp_path / "out")
    assert killed + rows == undisturbed[1]
    assert content(tmp_path / "out") == undisturbed[0]


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "report" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    stage = Stage("report", lambda job: None, gathers=True)
    with pytest.raises(InputError, match="report holds files"):
        run_stages([stage], PIECES, tmp_path)
    assert mine.read_text() == "mine"


def nothing(job: Job) -> None:
    pass


@pytest.mark.parametrize(
    ("stages", "pieces", "only", "message"),
    [
        ([Stage("a", nothing, ("b",)), Stage("b", nothing)], [Piece("p")], None, "no earlier"),
        ([Stage("a", nothing, ("a",))], [Piece("p")], None, "a needs a"),
        ([Stage("a", nothing), Stage("a", nothing)], [Piece("p")], None, "'a' is taken"),
        ([Stage("a", nothing)], [Piece("p"), Piece("p")], None, "'p' is taken"),
        ([Stage("a", nothing)], [Piece("partial-1")], None, "is taken"),
        ([Stage("a", nothing)], [Piece("../p")], None, "cannot name a folder"),
        ([Stage("a", nothing)], [Piece(".")], None, "cannot name a folder"),
        ([Stage("a", nothing)], [], None, "at least one piece"),
        ([Stage("a", nothing)], [Piece("p")], ["judge"], "no stage 'judge'"),
    ],
)
def test_unusable_names(
    tmp_path: Path, stages: list[Stage], pieces: list[Piece], only: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_stages(stages, pieces, tmp_path / "out", only)
    assert not os.listdir(tmp_path)


def test_the_tables_of_the_tiny_benchmark_hold_its_sums(tmp_path: Path) -> None:
    run(tmp_path / "out", only=("data", "train"))
    table = pd.read_parquet(tmp_path / "out" / "train" / "concept-2" / "table.parquet")
    # data: 97 + 98 + 99 + 3 * 2; train: a third of it, and the same again
    assert table.to_dict("list") == {"key": [*"abc"], "value": [199.0, 200.0, 201.0]}


def test_a_shared_stage_is_one_job_and_stays_when_pieces_come(tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []

    def run(job: Job) -> None:
        ran.append((job.stage, len(job.pieces)))
        write_atomically(job.folder / "x", job.stage.encode())

    stages = [
        Stage("base", run, shared=True),
        Stage("more", run, ("base",), shared=True),
        Stage("each", run, ("more",)),
        Stage("all", run, ("base", "each"), gathers=True),
    ]
    run_stages(stages, PIECES[:1], tmp_path)
    assert ran == [("base", 0), ("more", 0), ("each", 1), ("all", 1)]
    ran.clear()
    run_stages(stages, PIECES[:2], tmp_path)
    assert ran == [("each", 1), ("all", 2)]
    assert (tmp_path / "base" / "done.json").exists()
    stages[1] = replace(stages[1], options={"a": 1})
    ran.clear()
    run_stages(stages, PIECES[:2], tmp_path)
    assert [name for name, _ in ran] == ["more"]


def test_a_shared_stage_cannot_need_a_piece(tmp_path: Path) -> None:
    stages = [Stage("each", print), Stage("base", print, ("each",), shared=True)]
    with pytest.raises(InputError, match="base is shared but needs each, which is not"):
        run_stages(stages, PIECES, tmp_path)


def test_stages_are_chosen_by_name_or_kind() -> None:
    names = ["data", "generate.unsteered", "train.cdas", "generate.cdas", "report"]
    stages = [Stage(name, nothing) for name in names]
    assert stage_names(stages, "all") is None
    assert stage_names(stages, "generate, data") == [*names[:2], names[3]]
    assert stage_names(stages, "train.cdas") == ["train.cdas"]
    with pytest.raises(InputError, match="no stage 'judge'; there are data, generate, train"):
        stage_names(stages, "judge")


def made_by(made: Mapping[str, Any], ran: list[str]) -> list[Stage]:
    """A stage made by something, and one that needs it and is not."""

    def run(job: Job) -> None:
        ran.append(job.stage)
        with job.rows() as log:
            for key in log.missing(["a"]):
                log.append(key, {"by": made["torch"]})
        write_atomically(job.folder / "x", str(made["torch"]).encode())

    return [Stage("first", run, made_by=made), Stage("second", run, ("first",))]


def test_what_was_made_by_something_else_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    for version in ("2.4", "2.4", "2.5"):
        run_stages(made_by({"torch": version, "rules": "ab"}, ran), PIECES[:1], tmp_path)
    assert ran == ["first", "second", "first", "second"]
    assert "first/concept-0 is made again: torch changed since" in caplog.text
    # Where the stage is not to be run, its files are taken as they are: another machine made them.
    run_stages(made_by({"torch": "9"}, ran), PIECES[:1], tmp_path, only=("second",))
    assert len(ran) == 4
    run_stages(made_by({"torch": "9"}, ran), PIECES[:1], tmp_path, only=("first",))
    assert ran[4:] == ["first"]


def test_what_an_earlier_release_made_is_taken_as_it_is(tmp_path: Path) -> None:
    ran: list[str] = []
    run_stages([replace(one, made_by={}) for one in made_by({"torch": "1"}, ran)], PIECES, tmp_path)
    before = content(tmp_path)
    run_stages(made_by({"torch": "2"}, ran), PIECES, tmp_path)
    assert content(tmp_path) == before


def test_unfinished_rows_of_another_version_do_not_stay(tmp_path: Path) -> None:
    def fails(job: Job) -> None:
        with job.rows() as log:
            log.append("a", {"by": "1"})
        raise KeyboardInterrupt

    stage = made_by({"torch": "1"}, [])[0]
    with pytest.raises(KeyboardInterrupt):
        run_stages([replace(stage, run=fails)], [Piece("p")], tmp_path)
    seen: list[list[str]] = []

    def looks(job: Job) -> None:
        with job.rows() as log:
            seen.append(log.missing(["a"]))
        raise KeyboardInterrupt

    for made in ({"torch": "1"}, {"torch": "2"}):
        with pytest.raises(KeyboardInterrupt):
            run_stages([replace(stage, run=looks, made_by=made)], [Piece("p")], tmp_path)
    assert seen == [[], ["a"]]


def test_a_job_that_is_left_open_does_not_stop_the_others(tmp_path: Path) -> None:
    tried: list[str] = []
    down = {"concept-1"}

    def asks(job: Job) -> None:
        (piece,) = job.pieces
        tried.append(piece.key)
        with job.rows() as log:
            for key in log.missing(["kept"]):
                log.append(key, {"x": 1})
        if piece.key in down:
            raise UnfinishedError("the endpoint failed on 1 of 2 questions")
        write_atomically(job.folder / "x", b"")

    stages = [Stage("judge", asks), Stage("report", nothing, ("judge",), gathers=True)]
    with pytest.raises(
        UnfinishedError, match="^judge of concept-1 is left open: the endpoint fail"
    ):
        run_stages(stages, PIECES, tmp_path)
    assert tried == ["concept-0", "concept-1", "concept-2"]
    assert not (tmp_path / "report").exists()
    assert list(tmp_path.glob("judge/concept-1/partial-*/rows.jsonl"))
    down.clear()
    run_stages(stages, PIECES, tmp_path)
    assert tried[3:] == ["concept-1"]
    assert (tmp_path / "report" / "done.json").exists()


def test_a_second_run_on_the_folder_is_refused(tmp_path: Path) -> None:
    def again(job: Job) -> None:
        run_stages([Stage("s", nothing)], PIECES, tmp_path)

    with pytest.raises(InputError, match=f"is being worked on by process {os.getpid()} on"):
        run_stages([Stage("s", again)], PIECES, tmp_path)
