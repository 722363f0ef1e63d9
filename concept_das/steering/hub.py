"""Find a vector by its name, and share one on the Hugging Face hub.

A name is a folder, a vector that comes with the package (`pirate`), or a repository on the hub
(`name/pirate`, or `name/pirate@revision`). A repository holds the two files of a vector and a card;
only the two are downloaded, to the hub's own cache, from which they are read without a connection.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Literal

from concept_das.errors import InputError

TENSORS_FILE, DESCRIPTION_FILE = "vector.safetensors", "vector.json"

SHIPPED = ("pirate",)
"""Vectors for the packaged model that come with the package."""

_ON_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?")

# What a repository may hold before it holds what is shared.
_EMPTY = {".gitattributes", "README.md"}

Token = str | bool | None


def is_hub_id(name: str | os.PathLike[str]) -> bool:
    """True if a name is a repository on the hub, as far as its form tells, and no folder."""
    return _ON_HUB.fullmatch(os.fspath(name)) is not None and not Path(name).exists()


def vector_folder(
    name: str | os.PathLike[str], *, revision: str | None = None, token: Token = None
) -> Path:
    """The folder of a vector's two files, downloaded if the name is one on the hub.

    Args:
        revision: branch, tag or commit on the hub; also written `name/pirate@revision`.
        token: of the hub; the one of `hf auth login` or `HF_TOKEN` if None.

    Raises:
        InputError: if the hub does not give the files.
    """
    text = os.fspath(name)
    if text in SHIPPED and not Path(text).exists():
        return Path(str(resources.files("concept_das"))) / "resources" / text
    if not is_hub_id(text):
        if revision is not None:
            raise InputError(
                f"{text} is no repository on the hub and has no revision; leave it out"
            )
        return Path(text)
    found = _ON_HUB.fullmatch(text)
    assert found is not None
    if revision is not None and found[2] is not None:
        raise InputError(f"{text} names a revision already; leave the other one out")
    return _download(found[1], revision or found[2], token)


def _download(repo_id: str, revision: str | None, token: Token) -> Path:
    from huggingface_hub import hf_hub_download

    missing = f"{repo_id} on the hub holds no vector"
    with _explained(repo_id, revision, missing):
        description = Path(
            hf_hub_download(repo_id, DESCRIPTION_FILE, revision=revision, token=token)
        )
        # Of the same commit, which a cached file's folder is named by.
        commit = description.parent.name
        hf_hub_download(repo_id, TENSORS_FILE, revision=commit, token=token)
    return description.parent


def upload(
    folder: Path,
    repo_id: str,
    marker: str,
    *,
    kind: Literal["model", "dataset"] = "model",
    private: bool = False,
    revision: str | None = None,
    token: Token = None,
) -> str:
    """Put a folder's files on the hub, in a repository that is made if there is none.

    Args:
        marker: a file that a repository of this kind of content has; one that holds other files
            and not this one is left alone.
        revision: branch to write to, made if there is none; the main one if None.

    Returns:
        The repository's address.

    Raises:
        InputError: if the hub refuses, or the repository holds something else.
    """
    from huggingface_hub import HfApi

    with _explained(repo_id, revision, f"{repo_id} cannot be written"):
        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, repo_type=kind, exist_ok=True)
        found = api.repo_info(address.repo_id, repo_type=kind)
        if private and not found.private:
            raise InputError(
                f"{repo_id} is there already and public; make it private on its page, or choose "
                "another name"
            )
        if revision is not None:
            api.create_branch(address.repo_id, branch=revision, repo_type=kind, exist_ok=True)
        held = set(api.list_repo_files(address.repo_id, revision=revision, repo_type=kind))
        if held - _EMPTY and marker not in held:
            others = ", ".join(sorted(held - _EMPTY)[:3])
            raise InputError(
                f"{repo_id} on the hub holds something else ({others}); choose another name"
            )
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            repo_type=kind,
            revision=revision,
            commit_message="Upload by concept-das",
        )
    return str(address)


@contextmanager
def _explained(repo_id: str, revision: str | None, missing: str) -> Iterator[None]:
    """Turn the hub's errors into a sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of the hub and the network, of many kinds
        raise InputError(_reason(error, repo_id, revision, missing)) from error


def _reason(error: Exception, repo_id: str, revision: str | None, missing: str) -> str:
    from huggingface_hub import errors

    known = {  # from the special to the general: the first that fits is told
        errors.GatedRepoError: f"{repo_id} on the hub is gated; ask for access on its page",
        errors.RepositoryNotFoundError: f"there is no folder {repo_id}, and no repository of that "
        "name on the hub that you may read; check the name, or log in by `hf auth login` if it is "
        "private",
        errors.RevisionNotFoundError: f"{repo_id} on the hub has no revision {revision!r}; name "
        "one it has",
        errors.LocalEntryNotFoundError: f"there is no folder {repo_id}, the hub cannot be reached, "
        f"and {repo_id} is not in its cache; connect once, without HF_HUB_OFFLINE",
        errors.EntryNotFoundError: f"{missing}; name a repository that one was shared in",
    }
    for kind, reason in known.items():
        if isinstance(error, kind):
            return reason
    if not isinstance(error, errors.HfHubHTTPError):
        return f"the hub cannot be asked for {repo_id}: {_first_line(error)}; check the connection"
    refused = f"the hub refuses {repo_id}: {_first_line(error)}"
    status = getattr(error.response, "status_code", None)
    login = "; log in by `hf auth login` with a token that may do this"
    return refused + login if status in (401, 403) else refused


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
