"""`concept-das serve` as a user starts it, and two OpenAI clients with two vectors at once."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from concept_das import Steering, SteeringVector, generate_responses
from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.models.loading import LoadedModel
from concept_das.serving.remote import Remote
from concept_das.serving.request import SteeringRequest
from tests.vllm.conftest import PROMPTS

SECONDS_TO_START = 600


@pytest.fixture(scope="module")
def address(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [
        *(sys.executable, "-m", "concept_das.cli", "serve", "--vector", str(folders["pirate"])),
        *(f"two={folders['rank2']}", "--", "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "512", "--enforce-eager"),
    ]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + SECONDS_TO_START
        while not answers(f"{url}/health"):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            with suppress(subprocess.TimeoutExpired):
                server.wait(1)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def answers(url: str) -> bool:
    with suppress(OSError):
        return bool(urllib.request.urlopen(url).status == 200)
    return False


def test_two_clients_use_two_vectors_at_once(
    address: str, loaded: LoadedModel, chat: ChatFormat, folders: dict[str, Path]
) -> None:
    from openai import OpenAI

    def ask(request: SteeringRequest | None) -> list[str]:
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        body = {} if request is None else {"vllm_xargs": request.xargs()}
        texts = []
        for prompt in PROMPTS[:3]:
            completion = client.chat.completions.create(
                model="smollm2-135m",
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=24,
                extra_body=body,
            )
            texts.append((completion.choices[0].message.content or "").strip())
        return texts

    requests = [
        SteeringRequest("pirate"),
        SteeringRequest("two", "suppress", positions="generated"),
        None,
    ]
    with ThreadPoolExecutor(3) as clients:
        found = list(clients.map(ask, requests))
    for request, texts in zip(requests, found, strict=True):
        steering, positions = None, "all"
        if request is not None:
            folder = folders[{"two": "rank2"}.get(request.vector, request.vector)]
            steering, positions = request.steering(SteeringVector.load(folder)), request.positions
        expected = generate_responses(
            loaded,
            chat,
            PROMPTS[:3],
            steering=steering,
            positions=positions,
            max_new_tokens=24,
        )
        assert texts == expected


def test_it_answers_in_place_of_hugging_face(
    address: str, loaded: LoadedModel, chat: ChatFormat, folders: dict[str, Path]
) -> None:
    pirate, rank2, other = (SteeringVector.load(folder) for folder in folders.values())
    steering = [Steering(pirate, "elicit", 1.2), None, Steering(rank2, "suppress")]
    common: Any = {"steering": steering, "max_new_tokens": 12}
    server = Remote(f"{address}/v1")
    found = generate_responses(None, chat, PROMPTS[:3], **common, generator=server)
    assert found == generate_responses(loaded, chat, PROMPTS[:3], **common)
    with pytest.raises(InputError, match="does not serve the vector"):
        generate_responses(None, chat, PROMPTS[:1], steering=other, generator=server)


@pytest.mark.parametrize(
    ("xargs", "reason"),
    [
        ({"steering_vector": "nobody"}, "no vector 'nobody' here; known: pirate, two"),
        ({"steering_vector": "two", "steering_multiplier": "big"}, "give a finite number"),
        ({"steering_vector": "../../etc"}, "no vector"),
    ],
)
def test_a_wrong_request_is_answered_with_status_400(
    address: str, xargs: dict[str, Any], reason: str
) -> None:
    from openai import BadRequestError, OpenAI

    client = OpenAI(base_url=f"{address}/v1", api_key="none")
    asked: dict[str, Any] = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2,
    }
    with pytest.raises(BadRequestError, match=reason):
        client.chat.completions.create(**asked, extra_body={"vllm_xargs": xargs})
    assert client.chat.completions.create(**asked).usage.completion_tokens == 2  # type: ignore[union-attr]


def test_the_vectors_are_listed(address: str) -> None:
    listed = json.load(urllib.request.urlopen(f"{address}/v1/vectors"))
    assert [(row["name"], row["rank"]) for row in listed["data"]] == [("pirate", 1), ("two", 2)]
