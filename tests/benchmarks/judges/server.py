"""A small OpenAI-compatible server on loopback that misbehaves as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An answer as it goes over the wire. `hold` keeps it back until the server stops."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hold: bool = False
    cut: bool = False
    """The connection is lost before the end."""


def completion(text: str | None, *, finish: str = "stop", **changes: Any) -> Reply:
    """A well-formed answer: 100 tokens in, 20 out."""
    message = {"role": "assistant", "content": text}
    content = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        **changes,
    }
    return Reply(body=json.dumps(content).encode())


def error(status: int, *, code: str | None = None, **headers: str) -> Reply:
    content = {"error": {"message": f"made up, {status}", "type": "made_up", "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(content).encode(), named)


@dataclass
class Served:
    """The running server: what it was asked, and what it answers.

    `script` is answered first, one reply per request, then what `otherwise` makes of the request.
    `pages` are answered to GET.
    """

    url: str = ""
    path: str = "/v1/chat/completions"
    pages: dict[str, Any] = field(default_factory=dict)
    script: list[Reply] = field(default_factory=list)
    otherwise: Callable[[dict[str, Any]], Reply] = lambda _request: completion("Rating: [[2]]")
    requests: list[dict[str, Any]] = field(default_factory=list, repr=False)
    authorizations: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def texts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served = self.served
        with served.lock:
            served.requests.append(request)
            served.authorizations.add(self.headers["Authorization"])
            served.at_once += 1
            served.most_at_once = max(served.most_at_once, served.at_once)
            reply = served.script.pop(0) if served.script else None
        try:
            if self.path != served.path:
                reply = error(404)
            reply = reply or served.otherwise(request)
            if reply.hold:
                served.stopping.wait()
        finally:
            with served.lock:
                served.at_once -= 1
        self._send(reply)

    def do_GET(self) -> None:
        known = self.path in self.served.pages
        self._send(
            Reply(body=json.dumps(self.served.pages[self.path]).encode()) if known else error(404)
        )

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply.body) + (10 if reply.cut else 0)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)
        self.close_connection = reply.cut

    def log_message(self, *_: Any) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that gave up is part of the tests."""


@contextmanager
def serving() -> Iterator[Served]:
    served = Served()
    handler = type("Handler", (_Handler,), {"served": served})
    with _Quiet(("127.0.0.1", 0), handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            served.stopping.set()
            server.shutdown()
            thread.join()
