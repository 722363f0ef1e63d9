"""Several workers on the jobs of a benchmark; what one process does is in `test_stages`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concept_das.errors import InputError, OutsideError, UnfinishedError
from concept_das.runs.running import WorkerOptions, Workers, _share, run_stages
from concept_das.runs.stages import Files, Job, Jobs, Piece, Slot, Stage
from tests.benchmarks import tiny_benchmark as tiny
from tests.benchmarks.tiny_benchmark import PIECES, content


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[str]]:
    """The files and the rows of one process."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    rows = tiny.run(folder)
    return content(folder), sorted(rows)


class TwoAtOnce(Workers):
    """Workers in name only: of two jobs the one that was started last is done first."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(WorkerOptions(2), "", ())
        self._count = 2
        self.together: list[set[Slot]] = []
        self.jobs = jobs

    def start(self, slot: Slot, fingerprint: str | None) -> None:
        assert fingerprint == self.jobs.fingerprint(slot) is not None
        self.at_work[slot] = fingerprint

    def wait(self) -> tuple[Slot, Files | UnfinishedError]:
        self.together.append(set(self.at_work))
        slot, _ = self.at_work.popitem()
        try:
            return slot, self.jobs.run(slot)
        except UnfinishedError as error:
            return slot, error


def test_a_job_is_started_as_soon_as_its_needs_are_done(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[str]]
) -> None:
    stages = tiny.stages_of(tiny.Worker(tmp_path / "trace"))
    workers = TwoAtOnce(Jobs(stages, PIECES, tmp_path / "out"))
    run_stages(stages, PIECES, tmp_path / "out", workers=workers)
    rows = (tmp_path / "trace").read_text().splitlines()
    assert (content(tmp_path / "out"), sorted(rows)) == undisturbed
    # The second piece went on while the first one's data were still being made.
    assert {("data", "concept-0"), ("data", "concept-2")} in workers.together
    assert {("data", "concept-0"), ("train", "concept-1")} in workers.together
    assert max(map(len, workers.together)) == 2


def test_what_needs_nothing_of_an_open_job_is_done(tmp_path: Path) -> None:
    def run(job: Job) -> None:
        if (job.stage, job.pieces[0].key) == ("first", "concept-1"):
            raise UnfinishedError("the endpoint failed")

    stages = [Stage("first", run), Stage("second", run, ("first",)), Stage("other", run)]
    for number, workers in enumerate([None, TwoAtOnce]):
        folder = tmp_path / str(number)
        there = workers and workers(Jobs(stages, PIECES, folder))
        with pytest.raises(UnfinishedError, match="^first of concept-1 is left open: the endpoint"):
            run_stages(stages, PIECES, folder, workers=there)
        done = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.json"))
        two = [f"{stage}/concept-{i}" for stage in ("first", "second") for i in (0, 2)]
        assert [path for path in done if "partial" not in path] == sorted(
            [*two, *(f"other/{piece.key}" for piece in PIECES)]
        )


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(
    ("nodes", "options", "count", "cpus", "gpus"),
    [
        ([node(2)], {"workers": 2}, 2, 1, 0),
        ([node(16)], {"workers": 3}, 3, 5, 0),
        ([node(16)], {"cluster": "auto"}, 1, 16, 0),
        ([node(16), node(8)], {"cluster": "auto"}, 2, 8, 0),
        ([node(2), node(64)], {"workers": 6}, 6, 1, 0),
        ([node(64, 8), node(64, 1)], {"cluster": "auto"}, 9, 8, 1),
        ([node(64, 8), node(64)], {"cluster": "auto"}, 8, 8, 1),
        ([node(64, 8), node(64, 8, alive=False)], {"cluster": "auto"}, 8, 8, 1),
        ([node(64, 8)], {"workers": 2}, 2, 8, 1),
        ([node(64, 8)], {"cluster": "auto", "gpus_per_worker": 2.0}, 4, 16, 2),
        ([node(64, 8)], {"cluster": "auto", "gpus_per_worker": 0.5}, 16, 4, 0.5),
        ([node(64, 8)], {"workers": 4, "gpus_per_worker": 0.0}, 4, 16, 0),
        ([node(4, 8)], {"cluster": "auto"}, 4, 1, 1),
    ],
)
def test_workers_share_cpus_and_gpus(
    nodes: list[dict[str, Any]], options: dict[str, Any], count: int, cpus: int, gpus: float
) -> None:
    resources = {"num_cpus": cpus, "num_gpus": gpus}
    assert _share(nodes, WorkerOptions(**options)) == (count, resources)


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ([node(64, 2)], {"workers": 3}, "Ray has CPUs and GPUs for 2 workers, not for 3; give few"),
        ([node(64, 2)], {"workers": 1, "gpus_per_worker": 4.0}, "for 0 workers, not for 1"),
        ([node(2), node(2)], {"workers": 5}, "for 4 workers, not for 5"),
        ([], {"cluster": "auto"}, "for 0 workers"),
    ],
)
def test_more_workers_than_ray_has_room_for(
    nodes: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _share(nodes, WorkerOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers is 0; it must be at least 1"),
        ({"gpus_per_worker": 1.5}, "--gpus-per-worker is 1.5; give a whole number"),
        ({"gpus_per_worker": -1.0}, "--gpus-per-worker is -1"),
    ],
)
def test_unusable_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorkerOptions(**options)


def test_without_ray_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert WorkerOptions().of("m", ()) is None
    stages = [Stage("s", lambda job: None)]
    for options in (WorkerOptions(2), WorkerOptions(cluster="auto")):
        with pytest.raises(InputError, match=r"need Ray; install it with .*concept-das\[ray\]"):
            run_stages(stages, [Piece("p")], tmp_path / "out", workers=options.of("m", ()))
    run_stages(stages, [Piece("p")], tmp_path / "out")
    # Nothing is left to do, so that nothing is started.
    run_stages(stages, [Piece("p")], tmp_path / "out", workers=WorkerOptions(2).of("m", ()))


def run_with_ray(out: Path, *mischief: str, cluster: str | None = None) -> list[str]:
    """The tiny benchmark with two workers; the rows that were worked on."""
    trace = out.with_name("ray.trace")
    tiny.run_by_workers(out, trace, *mischief, cluster=cluster)
    return trace.read_text().splitlines()


def test_a_worker_of_ray_may_be_killed(
    tmp_path: Path,
    undisturbed: tuple[dict[str, bytes], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("ray")
    rows = run_with_ray(tmp_path / "out", "generate", "2", "dies", "ONCE")
    # The same table, no row twice and none lost, though a process died between two of them.
    assert (content(tmp_path / "out"), sorted(rows)) == undisturbed
    assert "has lost its process" in caplog.text


@pytest.mark.slow
def test_a_job_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(OutsideError, match=r"^generate of concept-\d has failed 3 times because"):
        run_with_ray(tmp_path / "out", "generate", "2", "dies")


@pytest.mark.slow
def test_an_error_of_a_job_comes_to_the_user_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="^that cannot be; give another$") as caught:
        run_with_ray(tmp_path / "out", "train", "1", "errs")
    assert type(caught.value) is InputError
    assert "tiny_benchmark.py" in str(caught.value.__cause__)  # where in the worker it was


@pytest.mark.slow
def test_a_second_command_is_told_of_the_first(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        InputError, match=f"is being worked on by process {os.getpid()} on .* since"
    ):
        run_with_ray(tmp_path / "out", "train", "1", "runs_again")


@pytest.mark.slow
def test_a_killed_command_takes_its_workers_with_it(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[str]]
) -> None:
    """Its worker goes on for a moment; the next run waits for it where both would do a job."""
    pytest.importorskip("ray")
    trace = tmp_path / "ray.trace"
    line = [str(tmp_path / "out"), str(trace), "generate", "2", "kills_the_driver"]
    command = [sys.executable, "-m", "tests.benchmarks.tiny_benchmark", *line]
    assert subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL
    run_stages(tiny.stages_of(tiny.Worker(trace)), PIECES, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed[0]
    rows = trace.read_text().splitlines()
    # The worker may have died between a row and its trace, but never made one again.
    assert len(rows) == len(set(rows)) >= len(undisturbed[1]) - 2


@pytest.mark.slow
def test_a_full_disk_keeps_the_rows(
    small_disk: Callable[[int], Path],
    tmp_path: Path,
    undisturbed: tuple[dict[str, bytes], list[str]],
) -> None:
    pytest.importorskip("ray")
    disk = small_disk(160)
    (tmp_path / "out").symlink_to(disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_with_ray(tmp_path / "out")
    assert str(caught.value.filename).startswith(str(tmp_path))
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    rows = run_with_ray(tmp_path / "out")
    assert (content(tmp_path / "out"), sorted(rows)) == undisturbed


@pytest.mark.slow
def test_a_lost_machines_job_goes_to_another(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], list[str]]
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        mischief = ("generate", "2", "kills_its_machine", "ONCE")
        rows = run_with_ray(tmp_path / "out", *mischief, cluster=cluster.address)
    finally:
        cluster.shutdown()
    assert (content(tmp_path / "out"), sorted(rows)) == undisturbed


@pytest.mark.slow
def test_where_there_is_no_cluster_it_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="there is no Ray cluster at 'auto'.*ray start"):
        run_with_ray(tmp_path / "out", cluster="auto")
