"""Vectors of several kinds for SmolLM2, and what they make of prompts in Hugging Face."""

import os

# Before vLLM is imported: the engine in this process, where tests can look into it.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from concept_das import SteeringVector, load_model, load_vector, steer
from concept_das.data.chat_format import ChatFormat, Prompt
from concept_das.models.loading import LoadedModel
from concept_das.models.packaged import packaged_model
from concept_das.serving.catalogue import engine_arguments
from concept_das.serving.request import SteeringRequest
from concept_das.steering.vector import ModelIdentity
from interventions import orthonormal_rows

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

TIE = 1e-4
"""Logits that differ less are the same: vLLM sums in another order."""

PROMPTS = (
    "Who are you?",
    "Name three fruits and say which one you like best.",
    "How do I boil an egg?",
    "Write a short letter to my landlord about the broken heating in the kitchen, please.",
    "What is the capital of France?",
    "Tell me a story about a lighthouse.",
    "Why is the sky blue?",
    "Give me advice for a job interview.",
)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    return load_model("smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def chat(loaded: LoadedModel) -> ChatFormat:
    return ChatFormat.of(loaded.tokenizer)


@pytest.fixture(scope="session")
def folders(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped vector at eight blocks, a clamp of rank 2 at one, and one that is added."""
    home = tmp_path_factory.mktemp("vectors")
    pirate = load_vector("pirate")
    common: dict[str, Any] = {
        "model": ModelIdentity.of(loaded.model, "smollm2-135m"),
        "prefix_length": pirate.prefix_length,
        "chat": pirate.chat,
    }
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 576, generator=random)
    vectors = {
        "pirate": pirate,
        "rank2": SteeringVector(
            orthonormal_rows(weight[:2]),
            torch.tensor([4.0, -3.0]),
            torch.tensor([-6.0, 8.0]),
            15,
            **common,
        ),
        "added": SteeringVector(
            orthonormal_rows(weight[2:]),
            torch.tensor([-12.0]),
            torch.tensor([12.0]),
            10,
            operation="add",
            positions="generated",
            **common,
        ),
    }
    return {name: vector.save(home / name) for name, vector in vectors.items()}


REQUESTS = (
    None,
    SteeringRequest("pirate"),
    SteeringRequest("pirate", "suppress", 1.2, "interpolate"),
    SteeringRequest("rank2"),
    SteeringRequest("rank2", "suppress", positions="p2+s2"),
    SteeringRequest("added", multiplier=1.5),
)


# Tokens of a batch, and room for keys and values.
NARROW = {"max_num_batched_tokens": 128, "block_size": 32, "num_gpu_blocks_override": 40}


def engine(folders: dict[str, Path], **options: Any) -> Any:
    """An engine in this process that serves the vectors."""
    from vllm import LLM

    return LLM(
        str(packaged_model()),
        dtype="float32",
        max_model_len=512,
        disable_log_stats=False,
        **engine_arguments(folders),
        **options,
    )


@pytest.fixture(scope="session")
def narrow(folders: dict[str, Path]) -> Any:
    """An engine in which prompts come in parts and not all requests find room at once."""
    return engine({**folders, "alias": folders["pirate"]}, enforce_eager=True, **NARROW)


def answers(
    llm: Any,
    prompts: Sequence[Prompt],
    requests: Sequence[SteeringRequest | None],
    tokens: int = 48,
) -> list[Any]:
    """Greedy completions, of all prompts in one call."""
    from vllm import SamplingParams

    outputs = llm.generate(
        [{"prompt_token_ids": list(prompt.ids)} for prompt in prompts],
        [
            SamplingParams(
                temperature=0,
                max_tokens=tokens,
                extra_args=None if request is None else request.extra_args(),
            )
            for request in requests
        ],
        use_tqdm=False,
    )
    return list(outputs)


def lost(
    loaded: LoadedModel,
    folders: dict[str, Path],
    prompt: Prompt,
    request: SteeringRequest | None,
    completion: Sequence[int],
) -> float:
    """By how much the logit of a token of a completion falls short of the best one, at most.

    In Hugging Face's model, steered by `steer`. Two greedy completions whose first different token
    is a tie both lose nothing.
    """
    ids = torch.tensor([[*prompt.ids, *completion]])
    with torch.no_grad(), steered(loaded, folders, prompt, request):
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, len(prompt.ids) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)
    return float((logits.amax(dim=1) - chosen).max())


def steered(
    loaded: LoadedModel,
    folders: dict[str, Path],
    prompt: Prompt,
    request: SteeringRequest | None,
) -> Any:
    if request is None:
        return torch.no_grad()
    steering = request.steering(SteeringVector.load(folders[request.vector]))
    lengths = [len(prompt.ids)]
    return steer(loaded, steering, positions=request.positions, prompt_lengths=lengths)
