import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from concept_das.errors import InputError
from concept_das.runs.processes import Shard, device_of, parse_range, shard_of_environment


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_disjoint_and_complete(world: int) -> None:
    values = list(range(5))
    shares = [Shard(rank, world).of(values) for rank in range(world)]
    assert sorted(value for share in shares for value in share) == values
    assert all(value % world == rank for rank, share in enumerate(shares) for value in share)


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, Shard(2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}, Shard(1, 3)),
        # A batch script, and a step of fewer tasks than the job has
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Shard(0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, Shard(0, 1)),
        ({"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2"}, Shard(1, 2)),
        # torchrun started by srun, one task per node
        (
            {"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            Shard(5, 8),
        ),
    ],
)
def test_the_environment_of_launchers(environment: dict[str, str], shard: Shard) -> None:
    assert shard_of_environment(environment) == shard


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
    ],
)
def test_half_an_environment_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match="RANK"):
        shard_of_environment(environment)


def test_the_process_reads_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert shard_of_environment() == Shard(1, 2)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("0:100", list(range(100))),
        ("0:3,20", [0, 1, 2, 20]),
        ("7, 2 : 4", [7, 2, 3]),
        ("05", [5]),
    ],
)
def test_a_selection(text: str, numbers: list[int]) -> None:
    assert parse_range(text) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' in '' is neither"),
        ("1,", "'' in '1,' is neither"),
        ("-1", "'-1' in '-1' is neither"),
        ("1.5", "neither"),
        ("0:", "neither"),
        ("0:10:2", "neither"),
        ("a", "neither"),
        ("5:5", "'5:5' in '5:5' is empty; .* 5:6 for 5 alone"),
        ("9:3", "is empty"),
        ("0:10,5", "names 5 twice"),
        ("3,3", "names 3 twice"),
    ],
)
def test_an_unusable_selection(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_range(text)


@pytest.mark.parametrize(
    ("environment", "device"),
    [
        ({}, None),
        # torchrun: two nodes of four; one process on each of two nodes
        (
            {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"},
            "cuda:2",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, None),
        # More processes than the four GPUs
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "5", "LOCAL_WORLD_SIZE": "8"},
            "cuda:1",
        ),
        # Set by hand
        ({"RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "cuda:1"),
        # srun: three nodes of two and one of one; one on each of two
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_STEP_NUM_TASKS": "7",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
            },
            "cuda:1",
        ),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_LOCALID": "0",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            },
            None,
        ),
        # submitit without a cluster, started in a Slurm step of one task
        (
            {
                "SUBMITIT_LOCAL_GLOBALID": "1",
                "SUBMITIT_LOCAL_NTASKS": "2",
                "SUBMITIT_LOCAL_LOCALID": "1",
                "SLURM_PROCID": "0",
                "SLURM_STEP_NUM_TASKS": "1",
                "SLURM_LOCALID": "0",
            },
            "cuda:1",
        ),
    ],
)
def test_each_process_of_a_node_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], device: str | None
) -> None:
    shard = shard_of_environment(environment)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of(shard, environment) == device
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of(shard, environment) is None


def test_a_process_that_sees_its_own_gpu_alone_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}
    assert device_of(Shard(3, 4), environment) == "cuda:0"


def test_a_local_rank_that_is_no_number_is_named() -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "first"}
    with pytest.raises(InputError, match="LOCAL_RANK='first'"):
        device_of(Shard(0, 2), environment)


SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from concept_das.runs.processes import device_of, shard_of_environment
torch.cuda.device_count = lambda: 2
shard = shard_of_environment()
record = [shard.world, shard.of(range(5)), device_of(shard), torch.distributed.is_initialized()]
(Path(sys.argv[1]) / f"{shard.rank}.json").write_text(json.dumps(record))
"""


@pytest.mark.slow
def test_torchrun_gives_each_process_its_share(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, "--nproc-per-node", "2", str(script), str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=300,
    )
    records = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert records == [[2, [0, 2, 4], "cuda:0", False], [2, [1, 3], "cuda:1", False]]
