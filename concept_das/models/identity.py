"""A model's identity: names, sizes and a fingerprint of its weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_das.models.weights import Weight, plain_name, unwrapped, weights_of

FIRST_ROWS = 64  # of the embedding
_SAMPLES = 256  # of each matrix
_UNREAD = "-"  # in place of the matrices' hash where they are quantised


@dataclass(frozen=True)
class ModelIdentity:
    """Enough to tell whether a vector belongs to a model.

    Attributes:
        name: the name that the model was loaded by.
        revision: hub commit, if any.
        architecture: class name.
        fingerprint: `2:A:B`. A is a SHA-256 over the vectors among the weights (norms, biases) and
            the first embedding rows; releases before the mark `2:` wrote A alone. B is one over a
            sample of every weight, active adapters included; `-` where the matrices are quantised,
            followed by a hash of the active adapters if there are any. Values count as bfloat16, so
            both are the same whatever precision, device or wrapper the model is in.
    """

    name: str
    revision: str | None
    architecture: str
    n_layers: int
    hidden_size: int
    vocab_size: int
    fingerprint: str

    @classmethod
    def of(
        cls, model: PreTrainedModel, name: str = "", revision: str | None = None
    ) -> "ModelIdentity":
        """Describe a model, compiled or not, with or without an adapter."""
        inner = unwrapped(model)
        config = inner.config.get_text_config()
        return cls(
            name=name or inner.config.name_or_path or type(inner).__name__,
            revision=revision,
            architecture=type(inner).__name__,
            n_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            fingerprint=_fingerprint(model),
        )

    def has_weights_of(self, other: "ModelIdentity") -> bool:
        """True if both are the same weights, as far as both fingerprints tell."""
        return same_weights(self.fingerprint, other.fingerprint)

    def has_shape_of(self, other: "ModelIdentity") -> bool:
        """True if one may be a fine-tune of the other: the same blocks of the same width."""
        return (self.n_layers, self.hidden_size) == (other.n_layers, other.hidden_size)


def same_weights(one: str, other: str) -> bool:
    """Compare two fingerprints, each of this release or of an earlier one.

    An earlier one holds A alone, and is compared with the other's A. Quantised matrices cannot be
    told from the unquantised ones that they were made of, and are taken for them, unless an adapter
    is on top.
    """
    (vectors, matrices), (others_vectors, others_matrices) = _parts(one), _parts(other)
    if vectors != others_vectors:
        return False
    one_is_quantised = matrices.startswith(_UNREAD) != others_matrices.startswith(_UNREAD)
    if one_is_quantised and _UNREAD in (matrices, others_matrices):
        return True
    return not (matrices and others_matrices) or matrices == others_matrices


def _parts(fingerprint: str) -> tuple[str, str]:
    if not fingerprint.startswith("2:"):
        return fingerprint, ""
    _, vectors, matrices = fingerprint.split(":")
    return vectors, matrices


def _fingerprint(model: PreTrainedModel) -> str:
    weights = weights_of(model)
    embedding, head = (weight_name(model, kind) for kind in ("input", "output"))
    if any(not weight.is_plain for weight in weights.values()) or _has_packed_matrices(model):
        alone = weights_of(model, add_adapters=False)
        adapters = {name: _sample(weight) for name, weight in alone.items() if weight.of_adapter}
        matrices = _UNREAD + (hash_of(adapters) if adapters else "")
    else:
        samples = {
            name: _sample(weight, of_tokens=name in (embedding, head))
            for name, weight in weights.items()
        }
        if head in samples and torch.equal(samples[head], samples[embedding]):
            del samples[head]  # tied, which not every way of loading tells
        matrices = hash_of(samples)
    vectors = {
        name: weight.values(slice(None))
        for name, weight in weights.items()
        if not weight.of_adapter and weight.shape.numel() > 1 and len(weight.shape) == 1
    }
    first_rows = slice(FIRST_ROWS * weights[embedding].shape[-1])
    vectors["embedding"] = weights[embedding].values(first_rows)
    return f"2:{hash_of(vectors)}:{matrices}"


def weight_name(model: PreTrainedModel, side: str) -> str:
    """Name of the input or the output embedding's weight; empty if there is none."""
    inner = unwrapped(model)
    wanted = getattr(inner, f"get_{side}_embeddings")()
    found = [name for name, module in inner.named_modules() if module is wanted]
    return f"{plain_name(found[0])}.weight" if found and wanted is not None else ""


def _sample(weight: Weight, of_tokens: bool = False) -> Tensor:
    """Values at a stride over the whole weight.

    Args:
        of_tokens: true if it has one row per token. Rows beyond the last power of two are left
            out, so that a vocabulary to which a few tokens were added is the same.
    """
    size = weight.shape.numel()
    if of_tokens:
        rows = weight.shape[0]
        size = size // rows * (1 << (rows.bit_length() - 1))
    # An odd stride, or else it would stay in a few columns of a matrix.
    values = weight.values(slice(0, size, size // _SAMPLES | 1))
    return values + 0  # an adapter that adds nothing turns -0 into 0


def _has_packed_matrices(model: PreTrainedModel) -> bool:
    """True if matrices are quantised into buffers, as GPTQ and AWQ do."""
    return any(
        name.rpartition(".")[2] in ("qweight", "weight") and not buffer.is_floating_point()
        for name, buffer in model.named_buffers()
    )


def hash_of(values: Mapping[str, Tensor]) -> str:
    """SHA-256 over bfloat16 values and their names."""
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(values[name].view(torch.int16).contiguous().numpy().tobytes())
    return digest.hexdigest()
