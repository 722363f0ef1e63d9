import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.launching import Command, main

pytest.importorskip("submitit")

ROOT = Path(__file__).parents[2]

# What each task leaves: who it is, what it was given, and which modules' arguments it saw.
WORKER = """
import json, sys
from pathlib import Path
from concept_das.runs.processes import shard_of_environment
if __name__ == "__main__":
    shard = shard_of_environment()
    if "fail" in sys.argv:
        sys.exit("no")
    record = [shard.world, shard.of(range(5)), sys.argv[1:]]
    (Path(sys.argv[1]) / f"{shard.rank}.json").write_text(json.dumps(record))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that tasks can run, and a folder of programs that comes first."""
    (tmp_path / "sharing_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    return "sharing_worker"


def records(folder: Path, world: int) -> list[object]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.slow
def test_each_task_takes_its_share(worker: str, tmp_path: Path) -> None:
    import submitit

    executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
    executor.update_parameters(tasks_per_node=2)
    executor.submit(Command((worker, str(tmp_path), "--flag"))).results()
    arguments = [str(tmp_path), "--flag"]
    assert records(tmp_path, 2) == [[2, [0, 2, 4], arguments], [2, [1, 3], arguments]]


def test_a_command_runs_as_python_m_does(
    worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    Command((worker, str(tmp_path)))()
    assert records(tmp_path, 1) == [[1, [0, 1, 2, 3, 4], [str(tmp_path)]]]
    failing = Command((worker, str(tmp_path), "fail"))
    with pytest.raises(RuntimeError, match=f"{worker} left with no"):
        failing()
    assert failing.checkpoint().function == failing


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster: its srun starts two tasks in turn, its sbatch keeps the script."""
    programs = tmp_path / "bin"
    programs.mkdir()
    srun = (
        "while [ $1 != --error ]; do shift; done; shift 2\n"
        "for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NUM_TASKS=2 "
        'SLURM_STEP_TASKS_PER_NODE=2 "$@" || exit 1; done\n'
    )
    sbatch = f'echo Submitted batch job 12; cp "$1" {tmp_path}/batch.sh\n'
    for name, body in (("srun", srun), ("sbatch", sbatch)):
        (programs / name).write_text(f"#!/bin/sh\n{body}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_job_asks_slurm_for_what_it_was_given(worker: str, slurm: Path) -> None:
    words = f"--folder {slurm}/logs --nodes 2 --tasks-per-node 2 --timeout-min 30 --partition long"
    assert main([*words.split(), "--", worker, str(slurm), "--flag"]) == 0
    batch = (slurm / "batch.sh").read_text()
    for line in ("nodes=2", "ntasks-per-node=2", "gpus-per-task=1", "time=30", "partition=long"):
        assert f"#SBATCH --{line}\n" in batch
    assert "srun" in batch.splitlines()[-1]


@pytest.mark.slow
def test_srun_starts_tasks_that_share(worker: str, slurm: Path) -> None:
    """From the command line to what the tasks leave; Slurm's own part is played by two scripts."""
    command = [sys.executable, "-m", "benchmarks.launching", "--folder", slurm / "logs"]
    submitted = subprocess.run(
        [*command, "--tasks-per-node", "2", "--", worker, slurm, "--flag"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "job 12" in submitted.stdout
    environment = {**os.environ, "SLURM_JOB_ID": "12", "SLURM_NTASKS": "2"}
    subprocess.run(["bash", slurm / "batch.sh"], check=True, env=environment, timeout=120)
    arguments = [str(slurm), "--flag"]
    assert records(slurm, 2) == [[2, [0, 2, 4], arguments], [2, [1, 3], arguments]]


def test_no_gpus_and_no_partition_are_not_asked_for(worker: str, slurm: Path) -> None:
    assert main(["--folder", f"{slurm}/logs", "--gpus-per-task=0", "--", worker]) == 0
    batch = (slurm / "batch.sh").read_text()
    assert "--gpus" not in batch
    assert "--partition" not in batch


def test_what_cannot_be_submitted_is_named(
    worker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def error(*words: str) -> str:
        assert main(["--folder", str(tmp_path), *words]) == 2
        return capsys.readouterr().err

    assert "no module 'benchmarks.nothing' to submit" in error("--", "benchmarks.nothing")
    assert "give one after --" in error()
    assert "nodes is 0; it must be at least 1" in error("--nodes=0", "--", worker)
    assert "gpus_per_task is -1; it must be at least 0" in error("--gpus-per-task=-1")
    local = ("--nodes=2", "--cluster=local", "--", worker)
    assert "one node, not 2; give --nodes 1" in error(*local)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "srun is not on this machine" in error("--", worker)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "concept-das[scale]" in error("--", worker)
