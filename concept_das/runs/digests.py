"""SHA-256 of large files, such as a model's shards, which are read again only if they changed."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from concept_das.errors import InputError
from concept_das.runs.files import cache_root, sha256_of, write_atomically

_CACHE_FILE = "file-digests.json"


def whole_digest(folder: Path, patterns: Sequence[str]) -> str | None:
    """SHA-256 over the names and the whole content of some of a folder's files.

    What was found is kept in the user's cache folder, by path, size and time of change; without
    such a folder, files are read every time.

    Args:
        patterns: which files, such as `*.safetensors`.

    Returns:
        None if there is no such folder.
    """
    if not folder.is_dir():
        return None
    cache = None
    with suppress(InputError):
        cache = cache_root() / _CACHE_FILE
    known = _read(cache)
    digest = hashlib.sha256()
    fresh = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        status = path.stat()
        key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        if key not in known:
            known[key] = fresh[key] = sha256_of(path)
        digest.update(f"{path.name} {known[key]} ".encode())
    if fresh and cache is not None:
        with suppress(OSError):  # it is no more than a cache
            write_atomically(cache, json.dumps({**_read(cache), **fresh}, indent=1).encode())
    return digest.hexdigest()


def _read(cache: Path | None) -> dict[str, str]:
    with suppress(OSError, ValueError):
        if cache is not None and isinstance(found := json.loads(cache.read_bytes()), dict):
            return found
    return {}
