"""LoRA: low-rank additions to linear layers at several blocks, trained through peft."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.errors import InputError
from concept_das.methods.base import Fit, TrainedMethod
from concept_das.methods.settings import TrainingConfig
from concept_das.methods.token_objective import LIKELIHOOD
from concept_das.models.blocks import Site, find_blocks, find_site
from concept_das.steering.artifact import Artifact, ModuleEdit, readable
from concept_das.steering.positions import EVERYWHERE, Span
from concept_das.words import Direction
from interventions.backend import pyvene as pv

TARGET = "o_proj"  # the attention's output projection
ALPHA = 32
_NAME = "default"  # peft's own name for the adapter


@dataclass(frozen=True)
class LoraTensors:
    """The adapter of one linear layer: y + scale B A x.

    Attributes:
        down: A.
        up: B.
    """

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]


@readable
@dataclass(frozen=True)
class Adapter(Artifact):
    """LoRA on some linear layers: y + m scale B A x, m the multiplier; elicits only.

    It acts on every token, the template prefix too, as peft's does.

    Attributes:
        lora: the parameters by the path of the linear layer.
        scale: alpha / rank.
        blocks: the decoder blocks these layers belong to, 0-based.
    """

    operations: ClassVar[tuple[str, ...]] = ("lora",)

    lora: Mapping[str, LoraTensors]
    scale: float
    blocks: tuple[int, ...]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Towards the concept."""
        return ("elicit",)

    @property
    def rank(self) -> int:
        """Rank of each addition."""
        return next(iter(self.lora.values())).down.shape[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder blocks, from the lowest."""
        return self.blocks

    def edits(
        self, model: PreTrainedModel, direction: Direction, multiplier: float
    ) -> Sequence[ModuleEdit]:
        """One at each linear layer."""
        return [
            ModuleEdit(
                path,
                partial(_add, tensors=tensors, scale=multiplier * self.scale),
                protects_prefix=False,
            )
            for path, tensors in self.lora.items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """A and B, by peft's names."""
        found = {}
        for path, tensors in self.lora.items():
            found[f"{path}.lora_A.weight"] = tensors.down
            found[f"{path}.lora_B.weight"] = tensors.up
        return found

    def edit_description(self) -> dict[str, Any]:
        """The adapted layers, the rank and the scale."""
        return {
            "operation": "lora",
            "formula": "y + m scale B A x, at every token",
            "rank": self.rank,
            "scale": self.scale,
            "sites": {"layers": list(self.layers), "modules": list(self.lora)},
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "Adapter":
        """The inverse of `tensors` and `edit_description`."""
        sites = description["sites"]
        lora = {
            path: LoraTensors(tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"])
            for path in sites["modules"]
        }
        return cls(lora=lora, scale=description["scale"], blocks=tuple(sites["layers"]), **common)


class PassThrough(pv.SourcelessIntervention, pv.TrainableIntervention):
    """Leaves the hidden states below the adapted layers as they are, and holds the adapter.

    Training starts from the hidden states of a site; this marks the block below the adapter.

    Attributes:
        adapted: peft's layers, by the path of the linear layer that each of them wraps.
    """

    def __init__(self, adapted: Mapping[str, nn.Module], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.adapted = dict(adapted)  # not as submodules, which would make the model a part of this
        for name in ("lora_A", "lora_B"):
            weights = [_weight(layer, name) for layer in self.adapted.values()]
            setattr(self, name, nn.ParameterList(weights))

    def forward(self, base: Tensor, *_source_and_subspaces: None, **_: Any) -> Tensor:
        """The base itself."""
        return base


class LoRA(TrainedMethod):
    """Maximum likelihood of the concept's response after the neutral prompt, by a LoRA.

    Hyper-parameters are AxBench's for Gemma-2-2B: rank 4, alpha 32, on the attention's output
    projection of blocks 5, 10, 15 and 20; learning rate 9e-4, 24 epochs, batches of 36 (18
    accumulated twice). It elicits only. Use it where peft's own adapter is wanted.
    """

    name = "lora"
    summary = "baseline: likelihood of the concept's response with peft's LoRA at 4 blocks"
    steering = "the adapter, times the multiplier, at every token"
    directions = ("elicit",)
    columns = ("positive_output",)
    objective = LIKELIHOOD
    trains_alone = True
    package = "peft"
    install = 'run `pip install "concept-das[peft]"`'
    shares_prefix = False

    def sites(
        self, model: PreTrainedModel, layers: Sequence[int], config: TrainingConfig
    ) -> list[Site]:
        """The block below the lowest adapted one: up to there nothing changes.

        Raises:
            InputError: if there is none, because the first block is to be adapted.
        """
        self.span(config.positions)
        if layers[0] == 0:
            raise InputError("LoRA is trained from the block below it; give --layers from 1 on")
        return [find_site(model, layers[0] - 1)]

    def span(self, positions: str | None) -> Span:
        """Every token.

        Raises:
            InputError: if others are asked for.
        """
        if positions not in (None, "all"):
            raise InputError(f"{self.name} adapts every token; leave out positions {positions}")
        return EVERYWHERE

    def build(
        self, model: PreTrainedModel, sites: Sequence[Site], config: TrainingConfig
    ) -> list[Mapping[EditName, nn.Module]]:
        """A new adapter, outside the model until `installed` puts it there.

        Raises:
            InputError: if peft is not installed, or the model has no output projection of that
                name.
        """
        self.check_installed()
        adapted = _new_adapter(model, find_blocks(model, config.layers), config.rank)
        return [{"lora": PassThrough(adapted, embed_dim=sites[0].width)}]

    @contextmanager
    def installed(
        self, model: PreTrainedModel, built: Sequence[Mapping[EditName, nn.Module]]
    ) -> Iterator[None]:
        """peft's layers in the place of the linear layers that they wrap."""
        holder = built[0]["lora"]
        assert isinstance(holder, PassThrough)
        plain = {path: model.get_submodule(path) for path in holder.adapted}
        try:
            for path, layer in holder.adapted.items():
                _put(model, path, layer)
            yield
        finally:
            for path, layer in plain.items():
                _put(model, path, layer)

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[EditedPass]:
        """x followed by y^c."""
        return [EditedPass(row.elicit.base, None, "lora") for row in rows]

    def artifact(self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]) -> Adapter:
        """A and B of every adapted layer."""
        holder = trained[0]["lora"]
        assert isinstance(holder, PassThrough)
        lora = {
            path: LoraTensors(
                *(_weight(layer, name).detach().cpu().clone() for name in ("lora_A", "lora_B"))
            )
            for path, layer in holder.adapted.items()
        }
        return Adapter(
            lora=lora,
            scale=ALPHA / task.config.rank,
            blocks=task.layers,
            **task.common,
        )


def _new_adapter(model: PreTrainedModel, layers: Sequence[int], rank: int) -> dict[str, nn.Module]:
    """peft's layers by the path of the linear layer they wrap; the model is left as it was."""
    import peft  # `check_installed` has said so if it is missing

    if "peft_config" in vars(model):
        raise InputError("the model has a peft adapter already; merge or unload it first")
    before = dict(model.named_modules())
    config = peft.LoraConfig(
        r=rank, lora_alpha=ALPHA, target_modules=[TARGET], layers_to_transform=list(layers)
    )
    try:
        peft.inject_adapter_in_model(config, model, adapter_name=_NAME)
    except ValueError as error:
        raise InputError(
            f"{type(model).__name__} has no {TARGET} in blocks {list(layers)}, which LoRA adapts "
            f"({error})"
        ) from error
    adapted = {
        path: module
        for path, module in model.named_modules()
        if path in before and module is not before[path]
    }
    for path in adapted:
        _put(model, path, before[path])
    del model.peft_config
    return adapted


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def _weight(layer: nn.Module, name: str) -> nn.Parameter:
    weight = getattr(layer, name)[_NAME].weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _add(inputs: Tensor, outputs: Tensor, tensors: LoraTensors, scale: float) -> Tensor:
    down, up = tensors.down.to(inputs.device), tensors.up.to(inputs.device)
    # As peft: the addition is computed in float32 and rounded once.
    added = linear(linear(inputs.to(down.dtype), down), up) * scale
    return (outputs + added).to(outputs.dtype)
