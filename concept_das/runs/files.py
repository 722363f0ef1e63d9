"""Writing files whole, and fingerprints of the inputs they were made from."""

import ast
import hashlib
import importlib.util
import json
import math
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from concept_das.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    A device, such as `/dev/stdout`, is written to as it is.

    Raises:
        OSError: naming the file, e.g. if the disk is full.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    scratch = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as file:  # readable for those whom the user's umask lets read
            file.write(content)
        os.replace(scratch, path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # its folder may be a file
            scratch.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make sure before any work that a file can be written; nothing is written yet.

    Raises:
        InputError: if it cannot, e.g. because a file stands where its folder should be.
    """
    folder = next(one for one in path.absolute().parents if one.exists())
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: {folder} is a file; choose another folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {folder} is not yours to write; choose another")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sources_of(*modules: str) -> str:
    """SHA-256 of the code of modules, comments excepted, and of all that lies in packages.

    Args:
        modules: their full names.
    """
    digest = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ImportError(f"there is no module {name}")
        home = Path(spec.origin)
        inside = sorted(home.parent.rglob("*")) if spec.submodule_search_locations else [home]
        for path in inside:
            if path.is_file() and "__pycache__" not in path.parts:
                text = path.read_bytes()
                if path.suffix == ".py":
                    text = _code(text)
                digest.update(f"{path.relative_to(home.parent)} {len(text)} ".encode() + text)
    return digest.hexdigest()


@cache  # several stages are made by the same modules
def _code(text: bytes) -> bytes:
    """Python without its comments."""
    return ast.unparse(ast.parse(text)).encode()


def fingerprint_of(value: Any, *, sort_keys: bool = False) -> str:
    """SHA-256 of the JSON form of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=sort_keys).encode()).hexdigest()


def without_nan(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for NaN, which JSON has not."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in numbers.items()
    }


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that keeps what was converted or found once.

    Raises:
        InputError: if none is named and the user has no home.
    """
    if chosen := cache_dir or os.environ.get("CONCEPT_DAS_CACHE"):
        return Path(chosen)
    try:
        return Path.home() / ".cache/concept-das"
    except RuntimeError as error:
        raise InputError(
            "the user has no home folder for a cache; set CONCEPT_DAS_CACHE to a folder"
        ) from error
