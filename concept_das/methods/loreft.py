"""LoReFT: a learned edit of the prompt's first and last tokens at several blocks.

It edits a hidden state to h + R^T (W h + b - R h), with R's rows orthonormal (ReFT paper, arXiv
2404.03592). Training goes through pyreft's own intervention; the trained edit is plain tensors, so
only the functions that build pyreft's intervention need pyreft.

What pyreft 0.1.0's `LoreftIntervention` does, measured with torch 2.13:

- Train it **without weight decay**. R is stored as Householder vectors whose diagonal, -1, is read
  through an integer cast: a single AdamW step with torch's default weight decay moves it towards 0,
  the cast makes it 0, and R is zero from then on. pyreft's own trainer never gets there: whatever
  `weight_decay` it is given, none of the parameters is in the group that decays.
- Its `load_state_dict` restores R exactly, but completes it with columns that are orthogonal to
  another, random R: as soon as the loaded intervention is trained further, R is no longer
  orthonormal (off by 0.15 after one step, at width 16). `loreft_intervention` has neither fault.
- `pyreft.ReftModel.load` fails for string paths, where pyvene passes no `embed_dim` (pyreft #125).
  Read the saved state with `LoreftTensors.from_pyreft` instead.
- W and b are bfloat16 unless told otherwise, and its forward needs the hidden states in the same
  precision: float32 W and b fail on a bfloat16 model. `loreft_edit` takes any, so train there by
  `loreft_edit(hidden, *loreft_tensors(intervention))`, through which gradients reach pyreft's
  parameters.
- Its forward takes no keyword arguments, so no `position_mask`; its dropout falls on the whole
  edited hidden state, so it is kept at 0 here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from concept_das.data.encoding import EditedPass, EditName, EncodedQuadruple
from concept_das.errors import InputError
from concept_das.methods.base import Fit
from concept_das.methods.block_edits import BlockEditMethod, BlockEdits
from concept_das.methods.interchange import CDAS
from concept_das.methods.settings import TrainingConfig
from concept_das.methods.token_objective import LIKELIHOOD
from concept_das.models.blocks import Site, find_site
from concept_das.steering.artifact import readable
from concept_das.steering.positions import Span
from concept_das.words import Direction
from interventions.backend import pyvene as pv
from interventions.sourceless import SourcelessEdit

_INSTALL = (
    'run `pip install "concept-das[reft]"`, or `pip install --no-deps pyreft==0.1.0` to keep '
    "your transformers"
)

# A float32 R may be off by this much after training; far below what pyreft's loading does to it.
_ORTHONORMAL_WITHIN = 1e-4


class LoreftTensors(NamedTuple):
    """The parameters of one LoReFT intervention, in the order of `loreft_edit`.

    Attributes:
        rotation: R, orthonormal rows.
        weight: W.
        bias: b.
    """

    rotation: Float[Tensor, "rank dim"]
    weight: Float[Tensor, "rank dim"]
    bias: Float[Tensor, "rank"]

    @classmethod
    def from_pyreft(cls, state: Mapping[str, Tensor]) -> "LoreftTensors":
        """From the state that pyreft saves for one intervention, as float32.

        Raises:
            InputError: if the state is not LoReFT's.
        """
        missing = {"rotate_layer", "weight", "bias"} - state.keys()
        if missing:
            raise InputError(
                f"the state has no {', '.join(sorted(missing))}; give one that pyreft saved for a "
                "LoreftIntervention"
            )
        rotation = state["rotate_layer"].T.float().contiguous()
        return cls(rotation, state["weight"].float(), state["bias"].float())


def loreft_edit(
    hidden: Float[Tensor, "*batch dim"],
    rotation: Float[Tensor, "rank dim"],
    weight: Float[Tensor, "rank dim"],
    bias: Float[Tensor, "rank"],
) -> Float[Tensor, "*batch dim"]:
    """h + R^T (W h + b - R h), in the dtype of `hidden`; the arithmetic is in R's.

    Args:
        hidden: hidden states, any floating dtype.
        rotation, weight, bias: R, W and b.
    """
    wide = hidden.to(rotation.dtype)
    target = torch.nn.functional.linear(wide, weight, bias)
    move = (target - wide @ rotation.T) @ rotation
    return (hidden + move).to(hidden.dtype)


@readable
@dataclass(frozen=True)
class LearnedEdit(BlockEdits):
    """A LoReFT for each direction and block: h + m R^T (W h + b - R h), m the multiplier.

    Attributes:
        parts: R, W and b of each edit.
        ends: how many tokens at the start of the prompt, the template prefix not counted, and how
            many at its end are edited.
    """

    operations: ClassVar[tuple[str, ...]] = ("loreft",)
    formula: ClassVar[str] = "h + m R^T (W h + b - R h), at the prompt's first and last tokens"
    names: ClassVar[tuple[str, ...]] = LoreftTensors._fields

    ends: tuple[int, int]

    @property
    def rank(self) -> int:
        """Rank of each edit."""
        return next(iter(next(iter(self.parts.values())).values()))[0].shape[0]

    def span(self) -> Span:
        """The tokens at the ends of the prompt."""
        return Span(*self.ends, generated=False)

    @staticmethod
    def edited(hidden: Tensor, parts: tuple[Tensor, ...], multiplier: float) -> Tensor:
        """See `loreft_edit`; the arithmetic is in float32."""
        wide = hidden.float()
        return (wide + multiplier * (loreft_edit(wide, *parts) - wide)).to(hidden.dtype)

    def edit_description(self) -> dict[str, Any]:
        """The edited blocks and tokens, and the rank."""
        return {
            **super().edit_description(),
            "rank": self.rank,
            "directions": list(self.directions),
            "tokens": {"first": self.ends[0], "last": self.ends[1]},
        }

    @classmethod
    def from_saved(
        cls, tensors: dict[str, Tensor], description: Mapping[str, Any], common: dict[str, Any]
    ) -> "LearnedEdit":
        """The inverse of `tensors` and `edit_description`."""
        ends = description["tokens"]
        parts = cls.saved_parts(tensors, description)
        return cls(parts=parts, ends=(ends["first"], ends["last"]), **common)


class MaskedLoreft(SourcelessEdit, pv.TrainableIntervention):
    """pyreft's LoReFT at chosen positions, in the model's own precision.

    pyreft's forward takes neither a mask nor hidden states of another precision; the parameters
    trained here are pyreft's own.
    """

    def __init__(self, embed_dim: int, low_rank_dimension: int) -> None:
        super().__init__(embed_dim=embed_dim, keep_last_dim=True)
        self.reft = build_loreft(embed_dim, low_rank_dimension)

    def edited(
        self, base: Float[Tensor, "batch positions dim"], subspaces: Any, row_factors: Any
    ) -> Float[Tensor, "batch positions dim"]:
        """Edit the base at every position, in its own precision."""
        return loreft_edit(base, *loreft_tensors(self.reft))


class LoreftMethod(BlockEditMethod):
    """LoReFT at several blocks, for each direction that is trained."""

    steering = "the learned edit of the prompt's first and last 5 tokens, times the multiplier"
    positions = "p5+s5"  # AxBench's f5+l5
    package = "pyreft"
    install = _INSTALL

    def sites(
        self, model: PreTrainedModel, layers: Sequence[int], config: TrainingConfig
    ) -> list[Site]:
        """Every block that is given.

        Raises:
            InputError: if there is weight decay, which undoes pyreft's parametrisation of R.
        """
        if config.weight_decay:
            raise InputError(
                f"weight_decay is {config.weight_decay}, under which pyreft's rotation falls to "
                f"zero; train {self.name} with 0"
            )
        return [find_site(model, layer) for layer in layers]

    def new_edit(self, width: int, rank: int) -> nn.Module:
        """A LoReFT."""
        return MaskedLoreft(width, rank)

    def parts_of(self, intervention: nn.Module) -> tuple[Tensor, ...]:
        """R, W and b."""
        assert isinstance(intervention, MaskedLoreft)
        return loreft_tensors(intervention.reft)

    def span(self, positions: str | None) -> Span:
        """The first and the last tokens of the prompt, the template prefix not counted.

        Raises:
            InputError: if other positions are asked for.
        """
        span = super().span(positions)
        if span.first is None or span.generated:
            raise InputError(
                f"{self.name} edits the ends of the prompt; give positions such as p5+s5, not "
                f"{positions}"
            )
        return span

    def artifact(self, task: Fit, trained: Sequence[Mapping[EditName, nn.Module]]) -> LearnedEdit:
        """The edits of each direction and block."""
        span = self.span(task.config.positions)
        assert span.first is not None
        parts = self.trained_parts(task, trained)
        return LearnedEdit(parts=parts, ends=(span.first, span.last), **task.common)


class LoReFT(LoreftMethod):
    """Maximum likelihood of the concept's response after the neutral prompt (ReFT paper, AxBench).

    Trained to elicit only: neither paper has a suppressing LoReFT. Use it to elicit by an edit of
    the prompt's tokens alone.
    """

    name = "loreft"
    summary = "baseline: likelihood of the concept's response with pyreft's LoReFT at 4 blocks"
    directions = ("elicit",)
    columns = ("positive_output",)
    objective = LIKELIHOOD

    def runs(self, rows: Sequence[EncodedQuadruple], direction: Direction) -> list[EditedPass]:
        """x followed by y^c."""
        return [EditedPass(row.elicit.base, None, direction) for row in rows]


class CDASLoReFT(LoreftMethod):
    """The JSD objective of CDAS on LoReFT: an edit that elicits and another that suppresses.

    The release trains the eliciting one only, on Phi-3.5 with learning rate 0.02. There is no
    interchange: nothing is swapped, and there is no factor. Use it for LoReFT's edit both ways.
    """

    name = "cdas_loreft"
    summary = "ablation: CDAS's Jensen-Shannon divergence on LoReFT, one edit each way"
    objective = CDAS.objective


def build_loreft(embed_dim: int, low_rank_dimension: int) -> Any:
    """A new `pyreft.LoreftIntervention` in float32, without dropout.

    R begins random and orthonormal, W and b as torch begins a linear layer.

    Raises:
        InputError: if pyreft is not installed, or the rank is not within the width.
    """
    if not 1 <= low_rank_dimension <= embed_dim:
        raise InputError(
            f"low_rank_dimension is {low_rank_dimension}; give 1 to {embed_dim}, the hidden size"
        )
    try:
        import pyreft
    except ImportError as error:
        raise InputError(f"LoReFT needs pyreft; {_INSTALL}") from error
    return pyreft.LoreftIntervention(
        embed_dim=embed_dim,
        low_rank_dimension=low_rank_dimension,
        dtype=torch.float32,
        dropout=0.0,
    )


def loreft_tensors(intervention: Any) -> LoreftTensors:
    """R, W and b of a `pyreft.LoreftIntervention`, with their graph; detach them to keep them.

    Raises:
        InputError: if it has an activation function, which the plain form has not.
    """
    probe = torch.tensor([-2.0, 3.0])
    if not torch.equal(intervention.act_fn(probe), probe):
        raise InputError("this LoReFT has an activation function; build it with act_fn=None")
    learned = intervention.learned_source
    return LoreftTensors(intervention.rotate_layer.weight.T, learned.weight, learned.bias)


def loreft_intervention(tensors: LoreftTensors) -> Any:
    """A `pyreft.LoreftIntervention` with exactly these parameters, fit to be trained further.

    R, W and b keep their bits. The columns that complete R to a basis of the whole space are
    orthogonal to it, so R stays orthonormal in training; the same R always gets the same columns,
    and the global random state is left alone. On the CPU; move it to the model's device.

    Raises:
        InputError: if pyreft is not installed, the shapes differ, or R is not orthonormal.
    """
    rotation, weight, bias = (tensor.detach().cpu().float() for tensor in tensors)
    rank, dim = rotation.shape
    if weight.shape != rotation.shape or bias.shape != (rank,):
        raise InputError(
            f"W has shape {tuple(weight.shape)} and b {tuple(bias.shape)}; R's shape "
            f"{(rank, dim)} asks for {(rank, dim)} and {(rank,)}"
        )
    off = float((rotation @ rotation.T - torch.eye(rank)).abs().max())
    if not off < _ORTHONORMAL_WITHIN:
        raise InputError(
            f"the rows of R are not orthonormal (off by {off:.1e}), which pyreft cannot hold; "
            "apply the tensors with loreft_edit, or pass R through orthonormal_rows first"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        intervention = build_loreft(dim, rank)
        rotate = intervention.rotate_layer
        rotate.weight = rotation.T.contiguous()  # completes the basis; R comes back rounded
        rotate.parametrizations.weight[0].base[:, :rank] = rotation.T
        intervention.learned_source.weight.copy_(weight)
        intervention.learned_source.bias.copy_(bias)
    return intervention
