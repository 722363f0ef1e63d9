"""Machines as they are: no home, no terminal, no room on the disk."""

import errno
import io
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from concept_das.cli.parser import main
from concept_das.steering.artifact import load_vector
from tests.concept_das.cli.world import evaluate, save_world, steer, train
from tests.in_the_wild.rows import Refused, check_sentence


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data and a run."""
    folder = save_world(tmp_path_factory.mktemp("world"))
    assert main(train(folder, folder / "run")) == 0
    return folder


Arranged = Callable[[pytest.MonkeyPatch, Path], None]


@dataclass(frozen=True)
class Case:
    """A machine.

    Attributes:
        tried: in a few words.
        arrange: makes the machine so; gets an empty folder.
        command: gets the world and that folder.
        comes_out: a file in the folder that is there afterwards, None, or `Refused`.
    """

    tried: str
    arrange: Arranged
    command: Callable[[Path, Path], list[str]]
    comes_out: str | Refused | None


def no_home(patch: pytest.MonkeyPatch, _: Path) -> None:
    def nobody(_: Any) -> Any:
        raise KeyError("uid not found")

    for name in ("HOME", "USER", "LOGNAME", "USERNAME", "CONCEPT_DAS_CACHE"):
        patch.delenv(name, raising=False)
    patch.setattr(pwd, "getpwuid", nobody)


def variables(**values: str) -> Arranged:
    def arrange(patch: pytest.MonkeyPatch, folder: Path) -> None:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "NETRC"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder))
        for name, value in values.items():
            patch.setenv(name, value.replace("HERE", str(folder)))

    return arrange


def stdin(stream: Any) -> Arranged:
    return lambda patch, _: patch.setattr(sys, "stdin", stream)


def full_disk(patch: pytest.MonkeyPatch, _: Path) -> None:
    def replace(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr("concept_das.runs.files.os.replace", replace)


NO_FULL_DEVICE = not Path("/dev/full").is_char_device()


def a_file(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "taken").write_text("mine")


def read_only(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr("concept_das.runs.files.os.access", lambda *_: False)  # also true for root


NO_MODEL = "the model is not loaded"

CASES = (
    Case("no home", no_home, lambda world, here: train(world, here / "a"), "a/vector/vector.json"),
    Case(
        "no home for wandb",
        no_home,
        lambda world, here: train(world, here / "wandb-less", "--wandb=auto"),
        "wandb-less/vector",
    ),
    Case(
        "no home for wandb that is asked for",
        no_home,
        lambda world, here: train(world, here / "a", f"--model={NO_MODEL}", "--wandb=offline"),
        Refused("wandb needs a home folder; set HOME, or choose --wandb off"),
    ),
    Case(
        "no home for the cache",
        no_home,
        lambda world, here: train(world, here / "a", "--model=smollm2-135m"),
        Refused("the user has no home folder for a cache; set CONCEPT_DAS_CACHE to a folder"),
    ),
    Case(
        "a cache in a file",
        lambda patch, here: (
            a_file(patch, here),
            patch.setenv("CONCEPT_DAS_CACHE", f"{here}/taken"),
        )[1],
        lambda world, here: train(world, here / "a", "--model=smollm2-135m"),
        Refused("cannot read or write HERE/taken"),
    ),
    Case(
        "stdin closed",
        stdin(None),
        lambda world, _: steer(world / "run"),
        Refused("there is no terminal to"),
    ),
    Case(
        "stdin closed, with a prompt",
        stdin(None),
        lambda world, _: steer(world / "run", "--prompt=Hi"),
        None,
    ),
    Case("stdin empty", stdin(io.StringIO("")), lambda world, _: steer(world / "run"), None),
    Case(
        "stdin in latin-1",
        stdin(io.TextIOWrapper(io.BytesIO("Äpfel\n".encode("latin-1")), "utf-8")),
        lambda world, _: steer(world / "run"),
        Refused("a text is not in the encoding that was expected ('utf-8' codec can't decode byte"),
    ),
    Case(
        "a prompt in latin-1",
        lambda *_: None,
        lambda world, _: steer(world / "run", "--prompt=\udcc4pfel"),
        Refused("a text is not in the encoding that was expected ('utf-8' codec can't encode"),
    ),
    Case(
        "a full disk at the start",
        full_disk,
        lambda world, here: train(world, here / "a"),
        Refused("cannot read or write HERE/a/config.yaml: No space left on device; make that po"),
    ),
    Case(
        "a full disk at the end",
        full_disk,
        lambda world, here: steer(world / "run", "--prompt=Hi", f"--out={here}/a.jsonl"),
        Refused("cannot read or write HERE/a.jsonl: No space left on device"),
    ),
    Case(
        "a full device",
        lambda _, here: (here / "full").symlink_to("/dev/full"),
        lambda world, here: steer(world / "run", "--prompt=Hi", f"--out={here}/full"),
        Refused("No space left on device"),
    ),
    *(
        Case(
            f"{words} out of a file",
            a_file,
            command,
            Refused(f"cannot write HERE/taken/{name}: HERE/taken is a file; choose another folder"),
        )
        for words, name, command in (
            ("train", "config.yaml", lambda world, here: train(world, here / "taken")),
            (
                "evaluate",
                "evaluation.csv",
                lambda world, here: evaluate(world / "run", f"--out={here}/taken"),
            ),
            (
                "steer",
                "a",
                lambda world, here: steer(world / "run", "--prompt=Hi", f"--out={here}/taken/a"),
            ),
            ("data make", "a.csv", lambda _, here: make(here / "taken/a.csv")),
            ("sweep", "config.yaml", lambda world, here: sweep(world, here / "taken")),
        )
    ),
    *(
        Case(
            f"{what} out of {where}",
            a_file,
            lambda world, here, what=what, out=out: [
                *("export", "--vector", f"{world}/run/vector", "--device=cpu"),
                *(
                    "--format",
                    what,
                    "--out",
                    out.replace("WORLD", str(world)).replace("HERE", str(here)),
                ),
            ],
            Refused(sentence),
        )
        for what, where, out, sentence in (
            (
                "pyvene",
                "a file",
                "HERE/taken",
                "cannot write HERE/taken/config.json: HERE/taken is a",
            ),
            (
                "lm-eval",
                "a file in between",
                "HERE/taken/a.pt",
                "HERE/taken is a file; choose anoth",
            ),
            ("lm-eval", "a folder", "HERE", "cannot write HERE: it is a folder; name a file"),
            (
                "pyvene",
                "a model",
                "WORLD/model",
                "model holds other files; name a folder of its own",
            ),
        )
    ),
    Case(
        "a folder of others",
        read_only,
        lambda world, here: train(world, here / "a"),
        Refused("cannot write HERE/a/config.yaml: HERE is not yours to write; choose another"),
    ),
    *(
        Case(
            f"a conversation with {option}",
            stdin(io.StringIO("")),
            lambda world, _, option=option: steer(world / "run", option),
            Refused("compare and out are of a prompt or a file; give one, or leave them out"),
        )
        for option in ("--out=a.jsonl", "--compare")
    ),
    Case(
        "steer out of a folder",
        lambda *_: None,
        lambda world, here: steer(world / "run", "--prompt=Hi", f"--out={here}"),
        Refused("cannot write HERE: it is a folder; name a file"),
    ),
    Case(
        "wandb online without a login",
        variables(),
        lambda world, here: train(world, here / "a", f"--model={NO_MODEL}", "--wandb=online"),
        Refused("wandb has no API key to go online with; run `wandb login` first, set WANDB_API"),
    ),
    Case(
        "wandb offline with a key",
        variables(WANDB_MODE="offline", WANDB_API_KEY="a" * 40),
        lambda world, here: train(world, here / "a", "--wandb=auto"),
        "a/wandb/latest-run/logs",
    ),
    *(
        Case(
            f"wandb off by {name}={value}",
            variables(**{name: value}, WANDB_API_KEY="a" * 40),
            lambda world, here: train(world, here / "wandb-less", "--wandb=auto"),
            "wandb-less/vector",
        )
        for name, value in (("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true"))
    ),
)


def make(out: Path) -> list[str]:
    return ["data", "make", f"--model={NO_MODEL}", "--concept=a", f"--out={out}"]


def sweep(world: Path, out: Path) -> list[str]:
    given = (f"--data={world}/rows.parquet", f"--model={NO_MODEL}", "--wandb=off")
    return ["sweep", f"--out={out}", "--layers=[1]", "--ranks=[1]", *given]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.tried)
def test_machines(
    case: Case,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if NO_FULL_DEVICE and case.tried == "a full device":
        pytest.skip("there is no /dev/full")
    case.arrange(monkeypatch, tmp_path)
    code = main(case.command(world, tmp_path))
    monkeypatch.undo()
    if isinstance(case.comes_out, Refused):
        assert code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "concept-das: " in last
        check_sentence(last, case.comes_out, tmp_path)
        return
    assert code == 0
    if case.comes_out is not None:
        assert (tmp_path / case.comes_out).exists()
    assert not (tmp_path / "wandb-less/wandb").exists()


@contextmanager
def masked(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_a_vector_is_readable_for_those_the_user_lets(
    world: Path, tmp_path: Path, umask: int, mode: int
) -> None:
    with masked(umask):
        load_vector(world / "run/vector").save(tmp_path / "vector")
    for path in (tmp_path / "vector").iterdir():
        assert path.stat().st_mode & 0o777 == mode


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A line of the shell, in which `methods` is the command that is fast."""
    command = f"{sys.executable} -m concept_das.cli"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('concept-das', command)}"],
        check=False,
        capture_output=True,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    ("line", "code", "last"),
    [
        ("concept-das methods | head -1", 0, b""),
        ("concept-das methods > /dev/full", 2, b"a file: No space left on device; make that"),
        ("concept-das methods >&-", 0, b""),
        ("concept-das methods 2>&-", 0, b""),
        ("concept-das methods <&-", 0, b""),
    ],
)
def test_pipes(line: str, code: int, last: bytes) -> None:
    if NO_FULL_DEVICE and "/dev/full" in line:
        pytest.skip("there is no /dev/full")
    ended = shell(line)
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    assert last in ended.stderr


def test_a_terminal_that_does_not_know_a_letter() -> None:
    program = "from concept_das.cli.parser import _set_up; _set_up(); print('\\u8239 \\xe9')"
    ended = shell(f'{sys.executable} -c "{program}"', PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert ended.stdout == b"\\u8239 \xe9\n"


@pytest.mark.parametrize("kilobytes", [4, 12, 24])
def test_a_disk_that_fills_up(
    world: Path,
    small_disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    kilobytes: int,
) -> None:
    out = small_disk(kilobytes) / "run"
    assert main(train(world, out)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    check_sentence(last, Refused(": No space left on device; make that possible or choose"), out)
    assert str(out) in last


def test_a_cache_on_a_disk_without_room(
    world: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = small_disk(16)
    command = train(world, tmp_path / "run", "--cache-gb=0", f"--cache-folder={disk}")
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    check_sentence(last, Refused("the cache of hidden states needs"), tmp_path)
    assert f"in {disk}, where" in last
    assert not list(disk.iterdir())
    assert not (tmp_path / "run").exists()
