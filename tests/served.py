"""A server that answers as vLLM with this project's plugin does, by a tiny model and `steer`."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from concept_das.data.chat_format import Prompt
from concept_das.models.loading import LoadedModel
from concept_das.serving.catalogue import Catalogue
from concept_das.serving.request import SteeringRequest
from concept_das.steering.generation import Decoding, HuggingFace, Question
from tests.benchmarks.judges.server import Reply, Served, serving

LISTING = "/v1/vectors"


@contextmanager
def serving_vectors(loaded: LoadedModel, folders: Mapping[str, Path]) -> Iterator[Served]:
    """A running server of a model and of saved vectors, by their names."""
    catalogue = Catalogue.read(folders)
    source = HuggingFace(loaded.model, loaded.tokenizer)
    alone = threading.Lock()

    def answer(request: dict[str, Any]) -> Reply:
        assert request["return_token_ids"]
        assert request["model"] == "served"
        try:
            asked = SteeringRequest.of(request.get("vllm_xargs"))
            parts = () if asked is None else catalogue.steering(asked).parts
        except ValueError as refusal:
            content = {"error": {"message": str(refusal), "code": 400}}
            return Reply(400, json.dumps(content).encode())
        question = Question(Prompt(tuple(request["prompt"]), 0, -1), parts, request["seed"])
        how = Decoding(
            "all" if asked is None else asked.positions,
            request["max_tokens"],
            request["temperature"],
            request["top_k"] or None,
            request["top_p"],
        )
        with alone:
            ((_, (ids,)),) = source.answers([question], how)
        choice = {"index": 0, "text": "", "token_ids": ids, "finish_reason": "stop"}
        content = {"id": "1", "object": "text_completion", "created": 0, "model": "served"}
        return Reply(body=json.dumps({**content, "choices": [choice]}).encode())

    with serving() as served:
        served.path = "/v1/completions"
        served.pages = {
            "/v1/models": {"object": "list", "data": [{"id": "served", "object": "model"}]},
            LISTING: {"data": catalogue.described()},
        }
        served.otherwise = answer
        yield served
