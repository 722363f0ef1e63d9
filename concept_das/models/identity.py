"""A model's identity: names, sizes and a fingerprint of its weights."""

import hashlib
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelIdentity:
    """Enough to tell whether a vector belongs to a model.

    Attributes:
        name: the name that the model was loaded by.
        revision: hub commit, if any.
        architecture: class name.
        fingerprint: SHA-256 over the unquantised weights (norms and the first embedding rows) in
            bfloat16, the same whatever precision the model was loaded in.
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
        """Describe a model."""
        config = model.config.get_text_config()
        return cls(
            name=name or model.config.name_or_path or type(model).__name__,
            revision=revision,
            architecture=type(model).__name__,
            n_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            fingerprint=_fingerprint(model),
        )


def _fingerprint(model: PreTrainedModel) -> str:
    """Hash of the vectors among the parameters (norms, biases) and 64 rows of the embedding."""
    digest = hashlib.sha256()
    small = {name: p for name, p in model.named_parameters() if p.dim() == 1 and p.numel() > 1}
    small["embedding"] = model.get_input_embeddings().weight[:64]
    for name in sorted(small):
        values = small[name].detach().to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(name.encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()
