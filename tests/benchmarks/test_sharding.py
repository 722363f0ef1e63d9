import pytest

from benchmarks.sharding import Shard, parse_range, shard_of_environment
from concept_das.errors import InputError


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
