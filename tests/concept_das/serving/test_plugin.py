"""The plugin's own parts, on stand-ins for vLLM's; tests/vllm runs them in vLLM."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from concept_das import InputError, VectorMismatchError
from concept_das.models.checkpoint import identity_of_files
from concept_das.models.identity import ModelIdentity
from concept_das.serving.catalogue import engine_arguments
from concept_das.serving.plugin import _check_request, _read_catalogue, attach, blocks_of
from concept_das.serving.request import SteeringRequest
from interventions import set_coordinates
from tests.concept_das.helpers import EVERY_ARCHITECTURE, random_vector
from tests.concept_das.serving.test_tables import new_request
from tests.tiny import LAYERS, WIDTH, save_tiny, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.fixture
def config(tmp_path: Path, folder: Path) -> SimpleNamespace:
    """A stand-in for `VllmConfig`, of an engine with two vectors."""
    model = tiny_model()
    random_vector(model, prefix_length=1).save(tmp_path / "a")
    random_vector(model, layer=0, seed=1).save(tmp_path / "b")
    return config_of(folder, {name: tmp_path / name for name in "ab"})


def config_of(folder: Path, vectors: dict[str, Path]) -> SimpleNamespace:
    return SimpleNamespace(
        additional_config=engine_arguments(vectors)["additional_config"] if vectors else {},
        use_v2_model_runner=False,
        speculative_config=None,
        kv_transfer_config=None,
        compilation_config=SimpleNamespace(mode=0, cudagraph_mode=0, static_forward_context={}),
        parallel_config=SimpleNamespace(use_ubatching=False, prefill_context_parallel_size=1),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        model_config=SimpleNamespace(
            model=str(folder), revision=None, hf_config=AutoConfig.from_pretrained(folder)
        ),
    )


def asking(config: Any, extra_args: Any, **fields: Any) -> Any:
    """A request that came through the front door; vLLM's `EngineCoreRequest`."""
    processor = SimpleNamespace(vllm_config=config)
    _read_catalogue(processor, None, {})
    given = {
        "cache_salt": None,
        "lora_request": None,
        "resumable": False,
        "prompt_token_ids": [1, 2, 3],
        **fields,
    }
    request = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra_args), **given)
    return _check_request(processor, request, {})


def test_other_steerings_never_share_keys_and_values(config: Any) -> None:
    asked = [
        None,
        SteeringRequest("a").extra_args(),
        SteeringRequest("b").extra_args(),
        SteeringRequest("a", "suppress").extra_args(),
        SteeringRequest("a", positions="prompt").extra_args(),
    ]
    salts = [
        asking(config, args, cache_salt=salt).cache_salt
        for args in asked
        for salt in (None, "mine", asking(config, asked[1]).cache_salt)
    ]
    assert len(set(salts)) == len(salts)
    assert salts[0] is None
    again = asking(config, SteeringRequest("a").xargs() | {"session_id": "c"})
    assert again.cache_salt == salts[3]
    extra_args = again.sampling_params.extra_args
    assert extra_args == {"session_id": "c", **SteeringRequest("a").extra_args()}


def test_a_request_that_cannot_be_met_is_refused(config: Any, folder: Path) -> None:
    for extra_args in ({"steering": 1}, SteeringRequest("c").extra_args()):
        with pytest.raises(InputError):
            asking(config, extra_args)
    for field in ("lora_request", "resumable"):
        with pytest.raises(InputError, match="leave one out"):
            asking(config, SteeringRequest("a").extra_args(), **{field: True})
    with pytest.raises(InputError, match="started without vectors"):
        asking(config_of(folder, {}), SteeringRequest("a").extra_args())
    assert asking(config_of(folder, {}), None, cache_salt="mine").cache_salt == "mine"


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "use_v2_model_runner", True),
        (None, "speculative_config", object()),
        (None, "kv_transfer_config", object()),
        ("parallel_config", "use_ubatching", True),
        ("parallel_config", "prefill_context_parallel_size", 2),
    ],
)
def test_an_engine_that_would_skip_the_edit_is_refused(
    config: Any, part: str | None, field: str, value: Any
) -> None:
    setattr(config if part is None else getattr(config, part), field, value)
    with pytest.raises(InputError, match="steering does not work with"):
        asking(config, None)


class Block(nn.Module):
    """A block of vLLM: its last part's output and the residual stream apart."""

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = hidden if residual is None else hidden + residual
        return residual.roll(1, dims=-1) * 0.5, residual


class PPMissingLayer(nn.Identity):
    """In place of a block on another device; known by its name."""


class Runner:
    """A stand-in for vLLM's model runner."""

    max_num_tokens = 16
    device = torch.device("cpu")

    def __init__(self, blocks: list[nn.Module]) -> None:
        self.model = nn.ModuleDict({"layers": nn.ModuleList(blocks)})
        self.input_batch = SimpleNamespace(
            num_reqs=2, req_ids=["x", "y"], num_computed_tokens_cpu=np.array([0, 3, 9])
        )

    def get_model(self) -> nn.Module:
        return self.model

    def execute_model(self, scheduled: Any, tokens: Tensor) -> Tensor:
        self._prepare_inputs(scheduled, np.array([3, 1]))
        hidden, residual = tokens, None
        for block in self.model["layers"]:  # type: ignore[operator, unused-ignore]
            if isinstance(block, Block):
                hidden, residual = block(hidden, residual)
        return hidden if residual is None else hidden + residual

    def _prepare_inputs(self, scheduled: Any, counts: Any) -> None: ...


def test_a_model_is_steered_row_by_row(config: Any) -> None:
    plain, runner = Runner([Block() for _ in range(LAYERS)]), None
    runner = Runner([Block() for _ in range(LAYERS)])
    attach(config, runner)
    scheduled = SimpleNamespace(
        finished_req_ids=[],
        scheduled_new_reqs=[
            new_request("x", SteeringRequest("a").extra_args(), range(3)),
            new_request("y", None, range(3)),
        ],
    )
    tokens = torch.randn(4, WIDTH)
    found = runner.execute_model(scheduled, tokens)
    untouched = plain.execute_model(scheduled, tokens)
    assert torch.equal(found[[0, 3]], untouched[[0, 3]])  # the prefix, and the other request
    vector = random_vector(tiny_model(), prefix_length=1)
    hidden, residual = Block()(*Block()(tokens, None))
    clamped = set_coordinates(hidden + residual, vector.weight, vector.positive_factor)
    for block in [Block() for _ in range(LAYERS - 2)]:
        hidden, residual = block(clamped, None)
        clamped = hidden + residual
    torch.testing.assert_close(found[1:3], clamped[1:3])


def test_a_device_steers_the_blocks_that_it_holds(config: Any) -> None:
    runner = Runner([Block(), *(PPMissingLayer() for _ in range(LAYERS - 1))])
    assert list(blocks_of(runner.model, LAYERS)) == [0]
    attach(config, runner)
    assert len(runner.model["layers"][0]._forward_hooks) == 1  # type: ignore[index, unused-ignore]
    with pytest.raises(InputError, match="no list of 7 blocks"):
        blocks_of(runner.model, 7)


def test_a_model_with_other_weights_is_refused(tmp_path: Path, config: Any) -> None:
    config.model_config.model = str(save_tiny(tmp_path / "other", seed=1))
    with pytest.raises(VectorMismatchError, match="the vector a belongs to"):
        attach(config, Runner([Block() for _ in range(LAYERS)]))


def test_an_engine_without_vectors_is_left_alone(folder: Path) -> None:
    attach(config_of(folder, {}), None)


@EVERY_ARCHITECTURE
def test_the_files_tell_the_weights(tmp_path: Path, architecture: str) -> None:
    """Exactly, or not at all."""
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    read = partial(identity_of_files, tmp_path)
    found = read(AutoConfig.from_pretrained(tmp_path))
    own = ModelIdentity.of(model)
    assert found.has_shape_of(own)
    assert found.architecture == own.architecture
    assert found.fingerprint == "" or found.has_weights_of(own)
    if architecture == "llama":
        assert found.fingerprint
        assert not found.has_weights_of(ModelIdentity.of(tiny_model(seed=1)))
        (tmp_path / "model.safetensors").unlink()
        assert read(model.config).fingerprint == ""
