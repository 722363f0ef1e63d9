"""A chat, quadruples, vectors, and losses in plain tensors, for the tests of the library."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple, encode_quadruples
from concept_das.data.quadruples import Quadruple
from concept_das.methods import Term, TrainedMethod
from concept_das.methods.registry import METHODS, find_method, trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site, find_site
from concept_das.models.loading import LoadedModel
from concept_das.steering.vector import ModelIdentity, SteeringVector
from concept_das.training.batch_loss import Losses
from concept_das.words import Direction
from interventions import orthonormal_rows
from objectives.names import Reduction
from tests.tiny import TINY_ARCHITECTURES, WIDTH, tiny_model, tiny_tokenizer

PAD = 2
"""`<|im_end|>`: also end of text, and a token of every prompt."""

EVERY_ARCHITECTURE = pytest.mark.parametrize("architecture", TINY_ARCHITECTURES)

# Methods that learn by gradient.
TRAINED = tuple(name for name, method in METHODS.items() if isinstance(method, TrainedMethod))

# Prompts and responses of different lengths, so that every batch is padded somewhere.
ROWS = (
    Quadruple("Name a fruit", "An apple.", "Name a fruit, pirate", "Arr, an apple!", 3, "Pirate"),
    Quadruple("Hi", "Hello, how are you?", "Hi, pirate", "Ahoy!", 3, "Pirate"),
    Quadruple("What is a ship?", "A boat", "What is a ship, pirate?", "Me home, arr", 3, "Pirate"),
    Quadruple("Sing", "La", "Sing, pirate", "Yo-ho-ho and a", 3, "Pirate"),
    Quadruple("How far is it?", "Ten miles.", "How far is it, pirate?", "A league", 3, "Pirate"),
)

MORE_ROWS = [
    replace(
        row, negative_input=f"{row.negative_input} {i}", positive_input=f"{row.positive_input} {i}"
    )
    for i in range(2)
    for row in ROWS
]


def tiny_chat(**options: Any) -> ChatFormat:
    return ChatFormat.of(tiny_tokenizer(), **options)


def encoded_rows(
    count: int = len(ROWS), *, rows: Sequence[Quadruple] = ROWS
) -> list[EncodedQuadruple]:
    return encode_quadruples(rows[:count], tiny_chat())


def tiny_loaded(architecture: str = "llama", *, seed: int = 0) -> LoadedModel:
    return LoadedModel(
        tiny_model(architecture, seed=seed), tiny_tokenizer(), f"tiny-{architecture}"
    )


def random_vector(
    model: PreTrainedModel, *, layer: int = 1, rank: int = 1, seed: int = 0, **fields: Any
) -> SteeringVector:
    """Random orthonormal directions; the factors are far from anything the tiny models reach."""
    generator = torch.Generator().manual_seed(seed)
    return SteeringVector(
        weight=orthonormal_rows(torch.randn(rank, WIDTH, generator=generator)),
        negative_factor=torch.randn(rank, generator=generator) - 6,
        positive_factor=torch.randn(rank, generator=generator) + 6,
        layer=layer,
        model=ModelIdentity.of(model),
        **{"prefix_length": len(tiny_chat().prefix), **fields},
    )


def vector_at(model: PreTrainedModel, layers: Sequence[int], **fields: Any) -> SteeringVector:
    """Other random directions at each layer, more of them from one layer to the next."""
    alone = [random_vector(model, layer=n, rank=n + 1, seed=n) for n in layers]
    return replace(
        alone[0], sites=tuple(site for vector in alone for site in vector.sites), **fields
    )


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the tests' type checks: what a wrong argument meets at a user's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@contextmanager
def hooked(module: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change a block's hidden states by a hook of the test's own."""

    def hook(_module: torch.nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        return (change(output[0]), *output[1:])

    with module.register_forward_hook(hook):
        yield


def block_of(model: PreTrainedModel, layer: int) -> torch.nn.Module:
    return find_site(model, layer).module(model)


def plain_hidden(model: PreTrainedModel, layer: int, turn: Turn) -> Tensor:
    """Output of a block for one unpadded row, `[positions, dim]`, from transformers itself."""
    output = model(torch.tensor([turn.ids]), output_hidden_states=True, use_cache=False)
    return output.hidden_states[layer + 1][0]


def plain_logits(model: PreTrainedModel, turn: Turn) -> Tensor:
    """Logits of one unpadded row that predict its response, `[response, vocab]`."""
    logits = model(torch.tensor([turn.ids]), use_cache=False).logits[0]
    first = len(turn.prompt.ids) - 1
    return logits[first : first + len(turn.response)]


def plain_interchange(
    model: PreTrainedModel, layer: int, weight: Tensor, pair: EditedPass
) -> tuple[Tensor, Tensor]:
    """Student and teacher logits of one row, unpadded: the method in a dozen lines of torch."""
    with torch.no_grad():
        source = plain_hidden(model, layer, pair.source)[pair.source.prompt.source_position]
        teacher = plain_logits(model, pair.source)
    prefix = pair.base.prompt.prefix_length

    def swap(hidden: Tensor) -> Tensor:
        base = hidden[:, prefix:]
        moved = base + ((source - base) @ weight.T) @ weight
        return torch.cat([hidden[:, :prefix], moved], dim=1)

    with hooked(block_of(model, layer), swap):
        student = plain_logits(model, pair.base)
    return student, teacher


def plain_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon divergence per token, by the definition, in float64."""
    p, q = student.double().softmax(-1), teacher.double().softmax(-1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


def plain_loss(
    model: PreTrainedModel,
    layer: int,
    weight: Tensor,
    rows: Sequence[EncodedQuadruple],
    direction: str,
) -> Tensor:
    """The loss of the paper: mean over rows of the mean over response tokens of the JSD."""
    pairs = [getattr(row, direction) for row in rows]
    values = [plain_jsd(*plain_interchange(model, layer, weight, pair)).mean() for pair in pairs]
    return torch.stack(values).mean()


def loss_of(
    losses: Losses,
    rows: Sequence[EncodedQuadruple],
    direction: Direction,
    reduction: Reduction = "sequence",
    method: str = "cdas",
) -> Tensor:
    """An engine's loss of a batch in one direction, with its graph."""
    terms = find_method(method).terms(rows, reduction, np.random.default_rng(0))
    total = torch.zeros(())
    for term in terms:
        if term.direction == direction:
            values = losses.token_losses(term.runs, [0] * len(term.runs))
            references = [losses.log_likelihood(turn) for turn in term.references]
            total = total + term.loss(values, references)
    return total


def terms_of(rows: Sequence[EncodedQuadruple], method: str = "cdas") -> list[Term]:
    """The terms of a method's loss of the rows."""
    return trained_method(method).terms(rows, "sequence", np.random.default_rng(0))


def runs_of(rows: Sequence[EncodedQuadruple], method: str = "cdas") -> list[EditedPass]:
    """All runs that a method makes of the rows."""
    return [run for term in terms_of(rows, method) for run in term.runs]


def tiny_config(method: str, **changed: Any) -> TrainingConfig:
    """A method's recipe for the tiny models; what acts at several blocks does so at 1 and 2."""
    several = {"layers": (1, 2)} if find_method(method).config().layers else {}
    return find_method(method).config(**{**several, **changed})


def built_for(
    model: PreTrainedModel, method: str, layer: int = 1
) -> tuple[list[Site], list[Mapping[EditName, nn.Module]]]:
    """A method's sites in a tiny model, and new interventions for them."""
    torch.manual_seed(0)
    config = tiny_config(method)
    layers = config.layers or (layer,)
    sites = trained_method(method).sites(model, layers, config)
    return sites, trained_method(method).build(model, sites, config)


# On the planted model these differ in one thing: how much of the text are exclamation marks.
PLANTED_ROWS = tuple(
    Quadruple(f"{text}.....", neutral, f"{text}!!!!!", concept, 0, "Shout")
    for text, neutral, concept in (
        ("Name a fruit", "An apple.", "APPLE"),
        ("Hi", "Hello there", "HELLO THERE"),
        ("What is a ship", "A boat", "A BIG BOAT"),
        ("Sing", "La la", "LA LA LA"),
    )
)


def planted_model() -> PreTrainedModel:
    """A model in which one known direction, the first axis, carries all that a prompt says.

    Attention of the first block writes the share of exclamation marks read so far to the first
    axis, which nothing else touches; the blocks above see every position alone. So swapping that
    coordinate after block 0 is (but for the share's dilution along the response) the whole effect
    of the concept prompt.
    """
    model = tiny_model("llama")
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = 0
        mark = tiny_tokenizer().convert_tokens_to_ids("!")
        embedding[mark] = 0
        embedding[mark, 0] = 1
        first = model.model.layers[0]
        for parameter in (*first.self_attn.parameters(), *first.mlp.parameters()):
            parameter.zero_()
        first.self_attn.v_proj.weight[0, 0] = 4  # normalised, a mark is 4 on that axis: 32 in all
        first.self_attn.o_proj.weight[0, 0] = 2
        for block in model.model.layers[1:]:
            block.self_attn.o_proj.weight.zero_()
    return model
