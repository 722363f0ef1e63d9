"""A model hub on loopback that speaks the protocol of the Hugging Face hub's clients.

    hub.add("google/gemma-2-2b-it", folder)                    # the folder's files, on `main`
    hub.add("name/rows", folder, kind="dataset", private=True)
    AutoModelForCausalLM.from_pretrained("google/gemma-2-2b-it")   # in this process
    subprocess.run(command, env=hub.env)                           # in another one

The fixture `hub` (tests/conftest.py) starts one and points this process's `huggingface_hub`,
`transformers` and `datasets` to it, with caches in the test's own folder. Large and binary files
are LFS files, as there: they are downloaded by a redirect to another host and uploaded by a batch
request. There is no Xet storage; clients then take LFS.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from packaging.version import Version

Kind = Literal["model", "dataset"]

TOKEN = "hf_owner"
"""Of the user `name`, who may read and write everything."""

STRANGER = "hf_stranger"
"""Of a user who may read what is public."""

USERS = {TOKEN: "name", STRANGER: "stranger"}

_LARGE = 10_000_000
_DAY = "2025-01-01T00:00:00.000Z"

_ID = r"(?P<id>(?:[\w.-]+/)??[\w.-]+)"
_API = re.compile(
    rf"/api/(?P<kind>model|dataset)s/{_ID}(?:/(?P<action>revision|tree|paths-info|refs|preupload|"
    r"commits?|branch|tag|settings|auth-check)(?:/(?P<rest>.*))?)?"
)
_RESOLVE = re.compile(rf"/(?:(?P<kind>dataset)s/)?{_ID}/resolve/(?P<rest>.+)")
_BATCH = re.compile(rf"/(?:(?P<kind>dataset)s/)?{_ID}\.git/info/lfs/objects/batch")


class Refusal(Exception):
    """An answer that is an error: status, the code that clients tell errors by, and a message."""

    def __init__(self, status: int, code: str | None, message: str, body: Any = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.body = status, code, message, body


@dataclass
class Repository:
    """Its branches and tags are names of commits; a commit is a folder tree."""

    kind: Kind
    id: str
    private: bool
    gated: bool
    references: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)

    def commit(self, files: Mapping[str, Path], branch: str) -> str:
        """Make a commit of these files on a branch; its hash."""
        content = json.dumps([len(self.commits), branch, *((p, str(f)) for p, f in files.items())])
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits[oid] = dict(sorted(files.items()))
        self.references[branch] = oid
        return oid

    def find(self, revision: str) -> tuple[str, dict[str, Path]]:
        """The commit of a branch, a tag or a hash, with its files."""
        oid = self.references.get(revision.removeprefix("refs/heads/"), revision)
        if oid not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid, self.commits[oid]


class Hub:
    """The server; a context manager.

    Attributes:
        url: its address.
        asked: the requests so far, as "GET /api/models/gpt2".
        env: environment of a process that is to use it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True)
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.storage = f"http://localhost:{port}/lfs"  # to clients another host

    def __enter__(self) -> "Hub":
        # Asked often whether it is to end: the default of 0.5 s would make each test wait.
        run = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        run.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(
        self,
        id: str,
        folder: Path,
        kind: Kind = "model",
        *,
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Serve a folder's files as a repository, or as another branch of one; the commit's hash.

        Args:
            private: only the owner's token may see it.
            gated: only the owner's token may download its files.
        """
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        known = self.repositories.setdefault((kind, id), Repository(kind, id, private, gated))
        commit = known.commit(files, revision)
        known.references.setdefault("main", commit)
        return commit

    def files(self, id: str, kind: Kind = "model", revision: str = "main") -> dict[str, Path]:
        """The files of a repository."""
        return self.repositories[kind, id].find(revision)[1]

    @property
    def env(self) -> dict[str, str]:
        """This process's environment, with the hub and its caches instead of the real one."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE"))
        }
        home = self.folder / "home"
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def use_in_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point the libraries of this process to the hub; they read the environment at import."""
        import datasets.config
        import huggingface_hub.constants
        import huggingface_hub.file_download
        import huggingface_hub.hf_api
        import transformers.utils.hub
        from huggingface_hub.hf_file_system import HfFileSystem

        home = self.folder / "home"
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        changed: dict[Any, dict[str, Any]] = {
            huggingface_hub.constants: {
                "ENDPOINT": self.url,
                "HUGGINGFACE_CO_URL_TEMPLATE": template,
                "HF_HUB_OFFLINE": False,
                "HF_HUB_DISABLE_XET": True,
                "HF_HUB_DISABLE_TELEMETRY": True,
                "HF_HOME": str(home),
                "HF_HUB_CACHE": str(home / "hub"),
                "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
                "HF_TOKEN_PATH": str(home / "token"),
                "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            },
            # Before 1.0 the client has a copy.
            huggingface_hub.file_download: {"HUGGINGFACE_CO_URL_TEMPLATE": template},
            huggingface_hub.hf_api.api: {"endpoint": self.url},
            datasets.config: {
                "HF_ENDPOINT": self.url,
                "HUB_DATASETS_URL": self.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
                "HF_HUB_OFFLINE": False,
                "HF_DATASETS_OFFLINE": False,
                "HF_CACHE_HOME": str(home),
                "HF_DATASETS_CACHE": home / "datasets",
                "HF_MODULES_CACHE": home / "modules",
                "DOWNLOADED_DATASETS_PATH": home / "datasets/downloads",
                "EXTRACTED_DATASETS_PATH": home / "datasets/downloads/extracted",
            },
            # transformers 5 keeps a client, made for the hub of the first use; 4 has copies.
            transformers.utils.hub: {
                "_hf_api": None,
                "_is_offline_mode": False,
                "TRANSFORMERS_CACHE": str(home / "hub"),
                "HUGGINGFACE_CO_RESOLVE_ENDPOINT": self.url,
            },
        }
        for place, values in changed.items():
            for name, value in values.items():
                if hasattr(place, name):
                    monkeypatch.setattr(place, name, value)
        HfFileSystem.clear_instance_cache()
        _forget_sessions()


def check_card(card: Any) -> None:
    """Let the hub check a card; clients before 1.0 would ask the real hub for it."""
    import huggingface_hub

    if Version(huggingface_hub.__version__).major >= 1:
        card.validate()


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `HF_HUB_OFFLINE=1` in the environment of a new process."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _forget_sessions()


def _forget_sessions() -> None:
    """Before 1.0 a client reads when it makes its session if it is offline, and keeps it."""
    from huggingface_hub.utils import _http

    getattr(_http, "reset_sessions", lambda: None)()


@lru_cache(maxsize=4096)
def _hashes(path: Path, _time: int) -> tuple[str, str]:
    """A file's git object id and its SHA-256."""
    content = path.read_bytes()
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return git, hashlib.sha256(content).hexdigest()


def hashes(path: Path) -> tuple[str, str]:
    """A file's git object id and its SHA-256."""
    return _hashes(path, path.stat().st_mtime_ns)


def _is_lfs(sample: bytes, size: int) -> bool:
    return b"\0" in sample or size >= _LARGE


def is_lfs(path: Path) -> bool:
    """True if the hub keeps a file as an LFS object."""
    with path.open("rb") as file:
        return _is_lfs(file.read(512), path.stat().st_size)


def card_data(text: str) -> dict[str, Any]:
    """The metadata at the top of a README.md.

    Raises:
        Refusal: as the hub does, if they are no valid yaml or a field has a value it does not take.
    """
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    if found is None:
        return {}
    try:
        data = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise _invalid(f"invalid yaml: {error}") from error
    lists = ("tags", "datasets", "metrics", "base_model", "language")
    for name in lists:
        values = data.get(name, [])
        values = [values] if isinstance(values, str) else values
        if not all(isinstance(value, str) and value for value in values):
            raise _invalid(f'"{name}" must be a text or a list of texts')
    if any(not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", id) for id in _texts(data.get("base_model"))):
        raise _invalid('"base_model" must be the id of a model on the hub')
    if any(not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", id) for id in _texts(data.get("datasets"))):
        raise _invalid('"datasets" must be ids of data sets on the hub')
    for entry in data.get("model-index", []):
        for result in entry["results"]:
            kinds = ("task", "type"), ("dataset", "type"), ("dataset", "name")
            if any(name not in result.get(part, {}) for part, name in kinds):
                raise _invalid('"model-index" needs task.type, dataset.type and dataset.name')
            if any("type" not in m or m.get("value") is None for m in result["metrics"]):
                raise _invalid('"model-index" needs a type and a value of each metric')
    return data


def _texts(values: Any) -> list[str]:
    return [values] if isinstance(values, str) else list(values or [])


def _invalid(message: str) -> Refusal:
    errors = {"errors": [{"message": message}], "warnings": []}
    return Refusal(400, None, message, errors)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: pytest shows what a test prints."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.asked.append(f"{self.command} {unquote(url.path)}")
        try:
            self._route(url.path)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message.replace("\n", " ")}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            body = refusal.body or {"error": refusal.message}
            self._send(refusal.status, json.dumps(body).encode(), headers)

    def _route(self, path: str) -> None:
        if found := _API.fullmatch(path):
            self._api(found["kind"], found["id"], found["action"], found["rest"] or "")
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found["kind"] or "model", found["id"], found["rest"])
        elif found := _BATCH.fullmatch(path):
            self._repository(found["kind"] or "model", found["id"], write=True)
            self._batch()
        elif path.startswith("/lfs/"):
            self._large(path.removeprefix("/lfs/"))
        elif path == "/api/whoami-v2":
            user = self._writer()
            self._json({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif path == "/api/validate-yaml":
            card_data(json.loads(self.body)["content"])
            self._json({"errors": [], "warnings": []})
        else:
            raise Refusal(404, None, f"Not Found: {path}")

    # Who asks

    def _user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        token = given.removeprefix("Bearer ")
        if token not in USERS:
            raise Refusal(401, None, "Invalid credentials in Authorization header")
        return USERS[token]

    def _writer(self) -> str:
        user = self._user()
        if user is None:
            raise Refusal(401, None, "Invalid username or password.")
        return user

    def _repository(self, kind: Kind, id: str, *, write: bool = False) -> Repository:
        user = self._user()
        found = self.hub.repositories.get((kind, id))
        if found is None or (found.private and user != USERS[TOKEN]):
            # Without a token the hub does not say whether it exists.
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and self._writer() != USERS[TOKEN]:
            raise Refusal(403, None, f"You don't have the rights to write to {id}")
        return found

    # Reading

    def _api(self, kind: Kind, id: str, action: str | None, rest: str) -> None:
        writes = action in ("preupload", "commit", "branch", "tag", "settings")
        repository = self._repository(kind, id, write=writes)
        revision, _, path = rest.partition("/")
        revision, path = unquote(revision), unquote(path)
        if action in (None, "revision"):
            self._json(_info(repository, revision or "main"))
        elif action == "tree":
            self._json(_tree(repository, revision, path, "true" in str(self.query).lower()))
        elif action == "paths-info":
            self._json(_paths_info(repository, revision, self._paths()))
        elif action == "refs":
            kinds: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
            for name, oid in repository.references.items():
                is_tag = name in repository.tags
                ref = f"refs/{'tags' if is_tag else 'heads'}/{name}"
                kinds["tags" if is_tag else "branches"].append(
                    {"name": name, "ref": ref, "targetCommit": oid}
                )
            self._json(kinds)
        elif action == "commits":
            oid, _files = repository.find(revision)
            entry = {"id": oid, "title": "", "message": "", "date": _DAY, "authors": []}
            self._json([entry])
        elif action == "preupload":
            self._json({"files": [self._upload_mode(f) for f in json.loads(self.body)["files"]]})
        elif action == "commit":
            self._commit(repository, revision)
        elif action in ("branch", "tag"):
            self._reference(repository, action, unquote(rest), json.loads(self.body or b"{}"))
        else:
            self._json({})

    def _paths(self) -> list[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self.body)["paths"]
        return parse_qs(self.body.decode())["paths"]

    def _resolve(self, kind: Kind, id: str, rest: str) -> None:
        repository = self._repository(kind, id)
        if repository.gated and self._user() != USERS[TOKEN]:
            status = 403 if self._user() else 401
            raise Refusal(status, "GatedRepo", f"Access to {kind} {id} is restricted")
        revision, _, path = rest.partition("/")
        oid, files = repository.find(unquote(revision))
        headers = {"X-Repo-Commit": oid}
        file = files.get(unquote(path))
        if file is None:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        git, sha256 = hashes(file)
        if not is_lfs(file):
            self._send_file(file, {**headers, "ETag": f'"{git}"'})
            return
        (self.hub.blobs / sha256).exists() or (self.hub.blobs / sha256).symlink_to(file.resolve())
        large = {
            "Location": f"{self.hub.storage}/{sha256}",
            "X-Linked-ETag": f'"{sha256}"',
            "X-Linked-Size": str(file.stat().st_size),
        }
        self._send(302, b"", {**headers, **large})

    def _large(self, sha256: str) -> None:
        blob = self.hub.blobs / Path(sha256).name
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != sha256:
                raise Refusal(400, None, "the content has another SHA-256")
            blob.write_bytes(self.body)
            self._send(200, b"", {"ETag": f'"{sha256}"'})
        elif blob.exists():
            self._send_file(blob, {"ETag": f'"{sha256}"'})
        else:
            raise Refusal(404, None, "no such object")

    # Writing

    def _create(self, asked: Mapping[str, Any]) -> None:
        user = self._writer()
        id = f"{asked.get('organization') or user}/{asked['name']}"
        kind: Kind = asked.get("type") or "model"
        if not id.startswith(f"{user}/"):
            raise Refusal(403, None, f"You don't have the rights to create {id}")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{id}"
        if (kind, id) in self.hub.repositories:
            raise Refusal(
                409, None, "You already created this repo", {"url": url, "error": "exists"}
            )
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repository = Repository(kind, id, private, gated=False)
        repository.commit({}, "main")
        self.hub.repositories[kind, id] = repository
        self._json({"url": url, "id": id, "name": id})

    def _upload_mode(self, file: Mapping[str, Any]) -> dict[str, Any]:
        large = _is_lfs(base64.b64decode(file["sample"]), file["size"])
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _batch(self) -> None:
        def entry(wanted: Mapping[str, Any]) -> dict[str, Any]:
            known = (self.hub.blobs / wanted["oid"]).exists()
            upload = {"upload": {"href": f"{self.hub.storage}/{wanted['oid']}", "header": {}}}
            return {**wanted, **({} if known else {"actions": upload})}

        objects = [entry(wanted) for wanted in json.loads(self.body)["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, branch: str) -> None:
        _oid, files = repository.find(branch)
        files = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                content = base64.b64decode(value["content"])
                blob = self.hub.blobs / hashlib.sha256(content).hexdigest()
                blob.write_bytes(content)
                files[value["path"]] = blob
            elif key == "lfsFile":
                files[value["path"]] = self.hub.blobs / value["oid"]
                if not files[value["path"]].exists():
                    raise Refusal(400, None, f"{value['path']} was not uploaded")
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files, branch)
        url = f"{self.hub.url}/{repository.id}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url})

    def _reference(
        self, repository: Repository, action: str, rest: str, asked: Mapping[str, Any]
    ) -> None:
        # A branch is named in the path and a tag in the body, whose path names the revision.
        name, start = (asked["tag"], rest) if action == "tag" else (rest, None)
        if name in repository.references:
            raise Refusal(409, None, f"Reference already exists: {name}")
        start = start or asked.get("startingPoint") or "main"
        repository.references[name] = repository.find(start)[0]
        if action == "tag":
            repository.tags.add(name)
        self._json({})

    # Answers

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send_file(self, path: Path, headers: Mapping[str, str]) -> None:
        content = path.read_bytes()
        status, sent = 200, dict(headers) | {"Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if first >= len(content):
                raise Refusal(416, None, "Range Not Satisfiable")
            sent["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self._send(status, content, sent)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _info(repository: Repository, revision: str) -> dict[str, Any]:
    oid, files = repository.find(revision)
    readme = files.get("README.md")
    data = card_data(readme.read_text(encoding="utf-8")) if readme else {}
    return {
        "_id": oid[:24],
        "id": repository.id,
        **({"modelId": repository.id} if repository.kind == "model" else {}),
        "author": repository.id.partition("/")[0],
        "sha": oid,
        "lastModified": _DAY,
        "createdAt": _DAY,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": _texts(data.get("tags")),
        "library_name": data.get("library_name"),
        "pipeline_tag": data.get("pipeline_tag"),
        "cardData": data,
        "siblings": [{"rfilename": path} for path in files],
    }


def _entry(path: str, file: Path) -> dict[str, Any]:
    git, sha256 = hashes(file)
    size = file.stat().st_size
    entry = {"type": "file", "path": path, "size": size, "oid": git}
    lfs = {"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if is_lfs(file) else {}
    return {**entry, **lfs}


def _folder(path: str) -> dict[str, Any]:
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def _tree(repository: Repository, revision: str, under: str, recursive: bool) -> list[Any]:
    start = f"{under.rstrip('/')}/" if under else ""
    found: dict[str, dict[str, Any]] = {}
    for path, file in repository.find(revision)[1].items():
        if not path.startswith(start):
            continue
        parts = path.removeprefix(start).split("/")
        folders = [start + "/".join(parts[:n]) for n in range(1, len(parts))]
        for folder in folders if recursive else folders[:1]:
            found.setdefault(folder, _folder(folder))
        if recursive or not folders:
            found[path] = _entry(path, file)
    if under and not found:
        raise Refusal(404, "EntryNotFound", f"{under} does not exist on {revision}")
    return list(found.values())


def _paths_info(repository: Repository, revision: str, paths: list[str]) -> list[Any]:
    files = repository.find(revision)[1]
    known = [path for path in paths if path in files]
    folders = [p for p in paths if p and any(f.startswith(f"{p.rstrip('/')}/") for f in files)]
    return [_entry(path, files[path]) for path in known] + [_folder(path) for path in folders]
