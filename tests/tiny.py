"""Tiny models with random weights and a tokenizer, all built in code: no files, no network."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

WIDTH = 16
LAYERS = 4
MAX_POSITIONS = 512

_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHARACTERS = "\t\n\r" + "".join(map(chr, range(32, 127)))
VOCABULARY = (*_SPECIAL_TOKENS, *_CHARACTERS)

SYSTEM_PROMPT = "Be kind."

# ChatML with a default system turn, as SmolLM2's and Qwen2's templates have it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM_PROMPT + "<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, for printable ASCII, tab and line breaks; others become unknown.

    Padding, end of text and end of turn are the same token, `<|im_end|>`, as in SmolLM2: code that
    tells padding by its id loses a real token of every prompt here.
    """
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|endoftext|>"))
    core.decoder = decoders.Fuse()
    core.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in _SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=MAX_POSITIONS,
    )


# Large enough that attention and the head matter: with the usual 0.02 every position is nearly
# its own embedding, and every next-token distribution nearly uniform.
_WEIGHT_SCALE = 0.4

_COMMON = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": _WEIGHT_SCALE,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

# The sliding window is shorter than any prompt of the tests, so that it shows.
# Only eager attention caps its scores.
_GEMMA = {
    **_COMMON,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 8,
    "attn_implementation": "eager",
}

# name -> configuration class, model class, configuration
_RECIPES: dict[str, tuple[str, str, dict[str, object]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _COMMON),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {
            **_GEMMA,
            "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
            # With tied embeddings this one only ever repeats its last token.
            "tie_word_embeddings": False,
        },
    ),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _COMMON),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_COMMON, "head_dim": 8}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _COMMON),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _COMMON),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "vocab_size": len(VOCABULARY),
            "n_embd": WIDTH,
            "n_layer": LAYERS,
            "n_head": 2,
            "n_positions": MAX_POSITIONS,
            "initializer_range": _WEIGHT_SCALE,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
    ),
}

ALL_ARCHITECTURES = tuple(_RECIPES)
"""Those that some supported transformers has."""

TINY_ARCHITECTURES = tuple(
    name for name, (_, model_class, _) in _RECIPES.items() if hasattr(transformers, model_class)
)
"""The architectures that the installed transformers has (4.45: no Gemma-3, Qwen3, OLMo-2)."""


def tiny_model(name: str = "llama", *, seed: int = 0) -> PreTrainedModel:
    """A causal language model of width 16 and 4 blocks, in evaluation mode, float32.

    The same name and seed give the same weights, whatever the state of the global generator, which
    is left as it was. Each call builds a new model.

    Args:
        name: one of `TINY_ARCHITECTURES`.

    Raises:
        ValueError: if the installed transformers does not have the architecture.
    """
    config_class, model_class, options = _RECIPES[name]
    if name not in TINY_ARCHITECTURES:
        raise ValueError(f"transformers {transformers.__version__} has no {model_class}")
    build: Callable[..., PreTrainedModel] = getattr(transformers, model_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(getattr(transformers, config_class)(**options))
    return model.eval()


def save_tiny(folder: Path, *, seed: int = 0) -> Path:
    """A tiny model with its tokenizer in a folder, as a hub id would resolve to."""
    tiny_model(seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
