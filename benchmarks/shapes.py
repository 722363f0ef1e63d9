"""The sizes of models, their parameters, and the arithmetic of running them.

Known without the weights: the presets' models from their public `config.json` on the hub, others
from a local folder's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from concept_das.errors import InputError
from concept_das.models.packaged import PACKAGED_MODEL

Family = Literal["llama", "qwen2", "gemma2", "olmo2"]


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer with gated MLPs.

    Attributes:
        family: decides which biases and norms there are.
        layers: decoder blocks.
        hidden, intermediate, vocab: widths of the residual stream, the MLP and the head.
        heads, kv_heads, head_dim: of attention; queries, and keys and values.
        tied: whether the head is the embedding table.
    """

    family: Family
    layers: int
    hidden: int
    intermediate: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool

    @property
    def query_width(self) -> int:
        """Numbers in a token's queries."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Numbers in a token's keys; as many in its values."""
        return self.kv_heads * self.head_dim

    @property
    def block_matrices(self) -> int:
        """Entries of a block's matrices."""
        attention = 2 * self.hidden * (self.query_width + self.kv_width)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def head(self) -> int:
        """Entries of the head, which may be the embedding table."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All that is stored."""
        qk_norms = self.query_width + self.kv_width if self.family == "olmo2" else 0
        biases = self.query_width + 2 * self.kv_width if self.family == "qwen2" else 0
        norms = (4 if self.family == "gemma2" else 2) * self.hidden
        block = self.block_matrices + qk_norms + biases + norms
        return self.layers * block + self.hidden + self.head * (1 if self.tied else 2)

    @property
    def read_per_step(self) -> int:
        """Parameters that a decoding step reads: all but an embedding table of its own."""
        return self.parameters - (0 if self.tied else self.head)

    def blocks_flops(self, tokens: float, blocks: int) -> float:
        """Forward pass of a sequence through some blocks: matrices, and attention of all pairs.

        Attention is counted as dense, as `torch.utils.flop_counter` does.
        """
        attention = 4 * tokens * self.query_width
        return blocks * tokens * (2 * self.block_matrices + attention)

    def blocks_backward_flops(self, tokens: float, blocks: int) -> float:
        """Gradient of the same with respect to its input alone: the weights are frozen."""
        attention = 8 * tokens * self.query_width
        return blocks * tokens * (2 * self.block_matrices + attention)

    def head_flops(self, tokens: float) -> float:
        """Logits of so many tokens; their gradient takes as much."""
        return 2 * tokens * self.head


def _gemma2(layers: int, hidden: int, intermediate: int, heads: int) -> ModelShape:
    return ModelShape(
        "gemma2", layers, hidden, intermediate, 256_000, heads, heads // 2, head_dim=256, tied=True
    )


def _olmo2(layers: int, hidden: int, intermediate: int) -> ModelShape:
    heads = hidden // 128
    return ModelShape(
        "olmo2", layers, hidden, intermediate, 100_352, heads, heads, head_dim=128, tied=False
    )


# From each model's config.json on the hub.
SHAPES: dict[str, ModelShape] = {
    "google/gemma-2-2b-it": _gemma2(26, 2304, 9216, 8),
    "google/gemma-2-9b-it": _gemma2(42, 3584, 14336, 16),
    "Qwen/Qwen2.5-3B-Instruct": ModelShape("qwen2", 36, 2048, 11008, 151_936, 16, 2, 128, True),
    "Qwen/Qwen2.5-7B-Instruct": ModelShape("qwen2", 28, 3584, 18944, 152_064, 28, 4, 128, False),
    "Qwen/Qwen2.5-14B-Instruct": ModelShape("qwen2", 48, 5120, 13824, 152_064, 40, 8, 128, False),
    "allenai/OLMo-2-0425-1B-Instruct": _olmo2(16, 2048, 8192),
    "allenai/OLMo-2-1124-7B-Instruct": _olmo2(32, 4096, 11008),
    "allenai/OLMo-2-1124-13B-Instruct": _olmo2(40, 5120, 13824),
    PACKAGED_MODEL: ModelShape("llama", 30, 576, 1536, 49_152, 9, 3, 64, True),
}


def find_shape(model: str) -> ModelShape:
    """The sizes of a model: from the table above, or from a local folder's config.json.

    Raises:
        InputError: if it is neither.
    """
    if model in SHAPES:
        return SHAPES[model]
    if not (Path(model) / "config.json").is_file():
        raise InputError(
            f"the sizes of {model} are not known here; give a local folder with its config.json or "
            "add them to benchmarks/shapes.py"
        )
    from transformers import AutoConfig

    return shape_of_config(AutoConfig.from_pretrained(model))


def shape_of_config(config: Any) -> ModelShape:
    """The sizes that a transformers configuration states.

    Raises:
        InputError: if it is of another family than those known.
    """
    config = config.get_text_config()
    if config.model_type not in get_args(Family):
        raise InputError(
            f"parameters of a {config.model_type} are not counted here; only of "
            f"{', '.join(get_args(Family))}"
        )
    heads = config.num_attention_heads
    return ModelShape(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        tied=config.tie_word_embeddings,
    )
