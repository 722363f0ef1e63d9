"""The plugin that vLLM loads in each of its processes (entry point `vllm.general_plugins`).

In the process that takes requests it checks their steering and keeps the keys and values of other
steerings apart; in the processes that run the model it edits the blocks' outputs. An engine that
was started without vectors is left alone, save that it refuses requests for one.
"""

import logging
import os
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from concept_das.errors import InputError
from concept_das.models.checkpoint import identity_of_files
from concept_das.serving.batch import Batches
from concept_das.serving.catalogue import CONFIG_KEY, Catalogue
from concept_das.serving.operator import register_operator
from concept_das.serving.request import KEY, SteeringRequest
from concept_das.serving.tables import BlockTable, Tables

log = logging.getLogger(__name__)


def register() -> None:
    """Teach this process's vLLM to steer; once, however often it is called."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    if hasattr(InputProcessor, "concept_das"):
        return
    InputProcessor.concept_das = True

    class RefusedRequestError(VLLMValidationError, InputError):
        """The server answers it with status 400; in Python it is what this package raises."""

    def check_request(*given: Any) -> Any:
        try:
            return _check_request(*given)
        except InputError as error:
            raise RefusedRequestError(str(error)) from error

    _after(InputProcessor, "__init__", _read_catalogue)
    _after(InputProcessor, "process_inputs", check_request)
    # The first of a worker's methods to be called once plugins are loaded.
    _after(WorkerWrapperBase, "init_device", _await_model)


def _after(owner: Any, name: str, then: Callable[[Any, Any, Any], Any]) -> None:
    """Let a method's result go through a function of (self, result, keyword arguments)."""
    original = getattr(owner, name)

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return then(self, original(self, *args, **kwargs), kwargs)

    setattr(owner, name, method)


def _read_catalogue(processor: Any, _result: None, _kwargs: Any) -> None:
    processor.concept_das_catalogue = Catalogue.of(processor.vllm_config.additional_config)
    if processor.concept_das_catalogue.vectors:
        check_engine(processor.vllm_config)


def check_engine(config: Any) -> None:
    """Make sure that an engine can steer.

    Args:
        config: vLLM's `VllmConfig`.

    Raises:
        InputError: if it is set up in a way in which tokens would not be steered.
    """
    parallel = config.parallel_config
    refused = {
        "the second version of vLLM's model runner (set VLLM_USE_V2_MODEL_RUNNER=0)": (
            config.use_v2_model_runner
        ),
        "vLLM's front end in Rust (set VLLM_USE_RUST_FRONTEND=0)": (
            os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0"
        ),
        "speculative decoding (leave its options out)": config.speculative_config,
        "batches in parts (leave --enable-dbo and --ubatch-size out)": parallel.use_ubatching,
        "prompts in parts on several devices (leave --prefill-context-parallel-size out)": (
            parallel.prefill_context_parallel_size > 1
        ),
        "keys and values kept outside vLLM (leave --kv-transfer-config out)": (
            config.kv_transfer_config
        ),
    }
    for what, found in refused.items():
        if found:
            raise InputError(f"steering does not work with {what}")


def _check_request(processor: Any, request: Any, kwargs: Any) -> Any:
    """Check a request's steering, and name it where keys and values are looked up.

    Args:
        request: vLLM's `EngineCoreRequest`; changed in place.

    Raises:
        InputError: if it asks for what cannot be done.
    """
    params = request.sampling_params
    asked = None if params is None else SteeringRequest.of(params.extra_args)
    catalogue: Catalogue = processor.concept_das_catalogue
    if asked is None:
        # Apart from all salts of steered requests.
        if catalogue.vectors and request.cache_salt:
            request.cache_salt = f"user:{request.cache_salt}"
        return request
    catalogue.steering(asked)
    if request.lora_request is not None or request.resumable:
        raise InputError(
            "a request is steered or uses a LoRA adapter or a streaming session; leave one out"
        )
    others = {
        name: value
        for name, value in params.extra_args.items()
        if name != KEY and not name.startswith(f"{KEY}_")
    }
    params.extra_args = {**others, **asked.extra_args()}
    prompt = request.prompt_token_ids
    length = len(request.prompt_embeds if prompt is None else prompt)
    request.cache_salt = f"{KEY}:{catalogue.digest(asked, length)}:{request.cache_salt or ''}"
    return request


def _await_model(wrapper: Any, result: Any, _kwargs: Any) -> Any:
    worker = wrapper.worker
    load = worker.load_model

    @wraps(load)
    def load_model(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        attach(worker.vllm_config, worker.model_runner)

    worker.load_model = load_model
    return result


def attach(config: Any, runner: Any) -> None:
    """Let a model that was just loaded be steered by the engine's vectors, if it has any.

    Args:
        config: vLLM's `VllmConfig`.
        runner: its model runner, of the first version.

    Raises:
        VectorMismatchError: if a vector belongs to another model.
    """
    catalogue = Catalogue.of(config.additional_config)
    if not catalogue.vectors:
        return
    check_engine(config)
    model = config.model_config
    identity = identity_of_files(_folder(model.model, model.revision), model.hf_config)
    if not identity.fingerprint:
        log.warning("the files of %s do not tell whether the vectors fit its weights", model.model)
    catalogue.check_model(identity)
    blocks = blocks_of(runner.get_model(), identity.n_layers)
    tables = Tables(
        catalogue,
        list(blocks),
        config.scheduler_config.max_num_seqs,
        runner.max_num_tokens,
        runner.device,
    )
    compilation = config.compilation_config
    compiled = bool(compilation.mode or compilation.cudagraph_mode)
    if compiled:
        register_operator()
        # What is compiled is kept on the disk, and differs with the blocks that are steered.
        config.additional_config[f"{CONFIG_KEY}_layers"] = list(tables.blocks)
    for layer, table in tables.blocks.items():
        name = f"concept_das.block.{layer}"
        compilation.static_forward_context[name] = table
        blocks[layer].register_forward_hook(partial(_edit, table, name if compiled else None))
    _follow(runner, Batches(tables))
    log.info("serving the vectors %s", ", ".join(catalogue.vectors))


def _folder(model: str, revision: str | None) -> Path:
    """The folder of a model's files, downloaded by now; its bare name if they cannot be found."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return Path(model)


def blocks_of(model: Any, n_layers: int) -> dict[int, nn.Module]:
    """The decoder blocks that this process runs; others are on other devices.

    Raises:
        InputError: if they cannot be found.
    """
    language = model.get_language_model() if hasattr(model, "get_language_model") else model
    lists = {
        name: module
        for name, module in language.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    if not lists:
        raise InputError(
            f"vLLM's {type(model).__name__} has no list of {n_layers} blocks; serve another model"
        )
    outermost = lists[min(lists, key=lambda name: name.count("."))]
    return {
        layer: block
        for layer, block in enumerate(outermost)
        if type(block).__name__ != "PPMissingLayer"
    }


def _edit(
    table: BlockTable, compiled: str | None, _block: nn.Module, _args: Any, output: Any
) -> Any:
    """A forward hook: a block's output, edited.

    Many blocks return their last part's output and the residual stream apart, to be added by the
    next one.

    Args:
        compiled: the table's name in vLLM's context, in a model that is compiled.
    """
    alone = isinstance(output, Tensor)
    hidden, residual = (output, None) if alone else output
    if residual is not None and residual.shape != hidden.shape:
        raise InputError("a block's output is not the hidden states and the residual stream")
    if compiled is not None:
        edited = torch.ops.concept_das.steer_block(hidden, residual, compiled)
    elif table.active:
        edited = table.edited(hidden, residual)
    else:
        return None
    return edited if alone else (edited, residual)


def _follow(runner: Any, batches: Batches) -> None:
    """Tell of all that the runner runs, before it does."""
    execute, prepare = runner.execute_model, runner._prepare_inputs

    @wraps(execute)
    def execute_model(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        batches.follow(scheduled.finished_req_ids, scheduled.scheduled_new_reqs)
        return execute(scheduled, *args, **kwargs)

    @wraps(prepare)
    def prepare_inputs(scheduled: Any, counts: Any) -> Any:
        batch = runner.input_batch
        starts = batch.num_computed_tokens_cpu[: batch.num_reqs]
        batches.prepare(batch.req_ids, starts.tolist(), counts.tolist())
        return prepare(scheduled, counts)

    runner.execute_model, runner._prepare_inputs = execute_model, prepare_inputs
