"""A model that is split over two processes, by matrices or by blocks, is steered as one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from concept_das import SteeringVector, steer
from concept_das.serving.catalogue import engine_arguments
from concept_das.serving.request import SteeringRequest
from concept_das.steering.vector import DirectionAtSite, ModelIdentity
from interventions import orthonormal_rows
from tests.vllm.conftest import TIE

WIDTH, LAYERS = 128, 4
REQUESTS = (
    None,
    SteeringRequest("all"),
    SteeringRequest("all", "suppress", positions="generated"),
    SteeringRequest("all", multiplier=2.0),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    model.config.name_or_path = str(folder)
    return model


@pytest.fixture(scope="module")
def vector(model: LlamaForCausalLM) -> SteeringVector:
    """At the output of every block, the last of each process among them."""
    sites = [
        DirectionAtSite(
            orthonormal_rows(torch.randn(2, WIDTH)), -3 * torch.randn(2), 3 * torch.randn(2), layer
        )
        for layer in range(LAYERS)
    ]
    return SteeringVector(sites=sites, model=ModelIdentity.of(model), prefix_length=2)


@pytest.mark.parametrize("split", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_a_split_model_is_steered_as_one(
    model: LlamaForCausalLM,
    vector: SteeringVector,
    tmp_path: Path,
    split: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm import LLM, SamplingParams

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # few cores are enough
    options: dict[str, Any] = {split: 2, "distributed_executor_backend": "mp"}
    llm = LLM(
        model.config.name_or_path,
        dtype="float32",
        max_model_len=128,
        skip_tokenizer_init=True,
        # On a processor, vLLM makes the buffers between its processes when it compiles.
        enforce_eager=split == "tensor_parallel_size",
        **engine_arguments({"all": vector.save(tmp_path)}),
        **options,
    )
    prompts = torch.randint(512, (len(REQUESTS), 12)).tolist()
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in prompts],
        [
            SamplingParams(
                temperature=0,
                max_tokens=16,
                ignore_eos=True,
                detokenize=False,
                extra_args=None if request is None else request.extra_args(),
            )
            for request in REQUESTS
        ],
        use_tqdm=False,
    )
    for prompt, request, output in zip(prompts, REQUESTS, outputs, strict=True):
        completion = list(output.outputs[0].token_ids)
        steering = None if request is None else request.steering(vector)
        positions = "all" if request is None else request.positions
        ids = torch.tensor([prompt + completion])
        rows = {"positions": positions, "prompt_lengths": [len(prompt)]}
        with torch.no_grad(), steer(model, [steering], **rows):  # type: ignore[arg-type]
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)
        assert float((logits.amax(dim=1) - chosen).max()) <= TIE
