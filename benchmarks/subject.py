"""The model that a benchmark steers, loaded when the first stage needs it."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel
from concept_das.models.packaged import PACKAGED_MODEL

_SAMPLE = 1 << 20

# What decides on a model's output; others, such as a card, may change.
_FILES = ("*.safetensors", "*.bin", "*config.json", "tokenizer*.json", "*.jinja")


class Subject:
    """A model and its chat format.

    Args:
        loading: which model and how; it must name one.
        chat: how conversations are written.
    """

    def __init__(self, loading: ModelOptions, chat: ChatOptions) -> None:
        self.loading = loading
        self.chat_options = chat

    @property
    def name(self) -> str:
        """What the model is loaded as."""
        return self.loading.model or PACKAGED_MODEL

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model itself."""
        return self.loading.load()

    @cached_property
    def chat(self) -> ChatFormat:
        """Its chat format."""
        return self.chat_options.of(self.loaded)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What of the model results depend on, as JSON can hold it; loads nothing.

        A local folder is told by its weight files: their sizes, first and last mebibytes.
        """
        return {
            "model": self.name,
            "revision": self.loading.revision,
            "dtype": self.loading.dtype,
            "load_in_4bit": self.loading.load_in_4bit,
            "system": self.chat_options.system,
            "source_token": self.chat_options.source_token,
            "weights": _digest_of(Path(self.name)),
        }


def _digest_of(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted({path for name in _FILES for path in folder.glob(name)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read())
    return digest.hexdigest()
