"""A stack of directions that pyvene can build, save and load, with a choice of rows per batch row.

All interventions of this package share it. It speaks pyvene's own words:

- `embed_dim` is the hidden size, `low_rank_dimension` the number of rows of the weight (1 unless
  said otherwise);
- `subspace_partition` splits the rows into independent concepts, `[[0, 1], [1, 2], ...]`, as pyvene
  splits a rotated space. Rows are orthonormal within one part and unrelated across parts;
- `subspaces` says, for each row of the batch, which part to intervene on, `[[0], [2], []]`. An
  empty list leaves that batch row alone. Without a partition the rows themselves are the parts,
  and a list may name several.

pyvene saves a partition only if the representation has it:
`{"component": ..., "intervention": ..., "subspace_partition": ...}`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.backend import pyvene as pv
from interventions.subspace import orthonormal_rows


class PartitionedSubspace(pv.TrainableIntervention, pv.DistributedRepresentationIntervention):
    """Base class: a weight `[low_rank_dimension, embed_dim]` of directions, always in float32.

    pyvene passes `embed_dim=None` for sites addressed by a string path
    (`model.layers[15].output`), also when it rebuilds a saved intervention. The weight is then
    created empty and takes its shape from the loaded state; give `embed_dim` yourself to train one.
    """

    def __init__(self, **kwargs: Any) -> None:
        # [batch, positions, dim] in and out: one source position serves all base positions.
        super().__init__(**{**kwargs, "keep_last_dim": True})
        embed_dim = kwargs.get("embed_dim")
        rank = kwargs.get("low_rank_dimension") or 1
        self._low_rank_dimension_given = kwargs.get("low_rank_dimension") is not None
        width = 0 if embed_dim is None else int(embed_dim)
        if embed_dim is not None and rank > width and self.subspace_partition is None:
            raise ValueError(f"low_rank_dimension {rank} exceeds embed_dim {width}")
        if self.subspace_partition is not None:
            rows = sorted(row for part in self.subspace_partition for row in part)
            if rows != list(range(rank)):
                raise ValueError(
                    f"subspace_partition {self.subspace_partition} must name each of the {rank} "
                    "rows (low_rank_dimension) exactly once"
                )
        self.weight = torch.nn.Parameter(torch.zeros(rank, width, dtype=torch.float32))
        if width:
            torch.nn.init.normal_(self.weight)
            self.retract()

    def __str__(self) -> str:
        return f"{type(self).__name__}(rank={self.weight.shape[0]})"

    def _parts(self) -> list[list[int]]:
        """Row indices of each part; the whole weight is one part when there is no partition."""
        return self.subspace_partition or [list(range(self.weight.shape[0]))]

    @torch.no_grad()
    def retract(self) -> None:
        """Bring the rows of each part back to an orthonormal set. Call it after each step.

        `optimizer.register_step_post_hook(lambda *_: intervention.retract())` does so by itself.

        Raises:
            ValueError: if the weight is not finite or a part's rows became dependent.
        """
        for rows in self._parts():
            self.weight[rows] = orthonormal_rows(self.weight[rows])

    def _check_width(self, hidden: Tensor) -> None:
        if self.weight.shape[1] == 0:
            raise ValueError(
                "the intervention has no embed_dim: pyvene passes none for a string path; build it "
                "yourself, intervention=" + type(self).__name__ + "(embed_dim=hidden_size)"
            )
        if hidden.shape[-1] != self.weight.shape[1]:
            raise ValueError(
                f"the hidden states have width {hidden.shape[-1]}, the direction "
                f"{self.weight.shape[1]}; it belongs to another model or site"
            )

    def _rows_of(self, subspaces: Sequence[Sequence[int] | int] | None) -> Iterator[list[int]]:
        """For each batch row, the weight rows that its `subspaces` entry names."""
        assert subspaces is not None
        parts = self.subspace_partition or [[row] for row in range(self.weight.shape[0])]
        for entry in subspaces:
            chosen = [entry] if isinstance(entry, int) else list(entry)
            bad = [part for part in chosen if not 0 <= part < len(parts)]
            if bad:
                raise ValueError(f"subspace {bad[0]} is out of range 0..{len(parts) - 1}")
            if self.subspace_partition is not None and len(set(chosen)) > 1:
                raise ValueError(
                    f"subspaces {chosen} name several concepts for one batch row; their directions "
                    "are not orthogonal to each other, so choose one"
                )
            yield [row for part in dict.fromkeys(chosen) for row in parts[part]]

    def select(
        self, base: Tensor, subspaces: Sequence[Sequence[int] | int] | None
    ) -> tuple[Float[Tensor, "*batch rank dim"], list[list[int]] | None]:
        """The directions to use: `[rank, dim]` for all, or `[batch, rank, dim]`, zero-padded.

        Args:
            base: the hidden states to change, `[batch, positions, dim]`.

        Returns:
            The directions, and the weight rows of each batch row (None when all use all rows).

        Raises:
            ValueError: on a width mismatch or a subspace out of range.
        """
        self._check_width(base)
        batch_size = base.shape[0]
        if subspaces is None:
            if len(self._parts()) > 1:
                raise ValueError(
                    "this intervention holds several concepts; pass subspaces=[[concept], ...], "
                    "one entry per batch row"
                )
            return self.weight, None
        chosen = list(self._rows_of(subspaces))
        if len(chosen) != batch_size:
            raise ValueError(f"{len(chosen)} subspaces for a batch of {batch_size} rows")
        rank = max((len(rows) for rows in chosen), default=0)
        padded = torch.nn.functional.pad(self.weight, (0, 0, 0, 1))  # the last row is zero
        index = [rows + [self.weight.shape[0]] * (rank - len(rows)) for rows in chosen]
        return padded[torch.tensor(index, dtype=torch.long, device=self.weight.device)], chosen

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the shapes that the constructor was not told from the saved state."""
        saved = state_dict.get(f"{prefix}weight")
        if saved is not None:
            for name, buffer in self._unsized_buffers(saved).items():
                self.register_buffer(name, buffer)
            rank = self.weight.shape[0] if self._low_rank_dimension_given else saved.shape[0]
            width = self.weight.shape[1] or saved.shape[1]
            if self.weight.shape != (rank, width):
                self.weight = torch.nn.Parameter(
                    self.weight.new_zeros(rank, width), requires_grad=self.weight.requires_grad
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _unsized_buffers(self, saved_weight: Tensor) -> dict[str, Tensor]:
        """Buffers that exist in a saved state but not yet here."""
        if self.weight.shape[1]:
            return {}
        for name in ("embed_dim", "interchange_dim"):
            self.__dict__.pop(name, None)  # pyvene leaves plain None attributes in their place
        width = torch.tensor(saved_weight.shape[1])
        return {"embed_dim": width, "interchange_dim": width.clone()}
