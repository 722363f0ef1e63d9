"""The edit of a batch's flat tokens, each by its own request's steering, in tables of fixed size.

vLLM computes the tokens of all requests side by side. Each active steering has a row in the tables
of every block's coordinates and amounts; each token has the number of its row, and row 0 leaves a
token alone. The tables stay where they are in memory, so that recorded graphs read the present
values.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from concept_das.serving.catalogue import Catalogue
from concept_das.serving.request import SteeringRequest


class BlockTable:
    """The edits of all steerings at one block's output.

    The directions of all vectors that act there stand below each other. A steering moves a hidden
    state h by (a - c * W h) W: along the rows of its own vector, c is 1 and a the coordinates where
    it clamps, c is 0 and a the amounts where it adds; along all other rows both are 0.

    Args:
        catalogue: the vectors.
        layer: the block.
        rows: number of steerings that can be active at once.
        row_of_token: the row of each token of the batch, shared by all blocks.

    Attributes:
        active: true if a token of the coming pass is steered.
    """

    def __init__(
        self, catalogue: Catalogue, layer: int, rows: int, row_of_token: Int[Tensor, "tokens"]
    ) -> None:
        self.row_of_token = row_of_token
        self.active = False
        self.columns: dict[str, slice] = {}
        weights: list[Tensor] = []
        for name, served in catalogue.vectors.items():
            for site in served.vector.sites:
                if site.layer == layer:
                    start = sum(map(len, weights))
                    self.columns[name] = slice(start, start + site.rank)
                    weights.append(site.weight.float())
        device = row_of_token.device
        self.weight = torch.cat(weights).to(device)
        self.amount = torch.zeros(rows + 1, len(self.weight), device=device)
        self.clamped = torch.zeros_like(self.amount)

    def write(self, row: int, name: str, target: Float[Tensor, "rank"], clamps: bool) -> None:
        """Let a row that does nothing here steer by a vector.

        Args:
            target: the coordinates to clamp to, or the amounts to add.
        """
        self.amount[row, self.columns[name]] = target.to(self.amount.device)
        self.clamped[row, self.columns[name]] = float(clamps)

    def clear(self, row: int) -> None:
        """Let a row do nothing here."""
        self.amount[row] = 0
        self.clamped[row] = 0

    def edited(
        self, hidden: Float[Tensor, "tokens dim"], residual: Float[Tensor, "tokens dim"] | None
    ) -> Float[Tensor, "tokens dim"]:
        """The hidden states that, with the same residual, are the edited output of the block.

        Args:
            hidden, residual: the block's output; it is their sum.
        """
        rows = self.row_of_token[: hidden.shape[0]]
        mine = hidden.float()
        whole = mine if residual is None else mine + residual.float()
        move = self.amount[rows] - self.clamped[rows] * (whole @ self.weight.T)
        return (mine + move @ self.weight).to(hidden.dtype)


class Tables:
    """The tables of all blocks that a process runs, and the steerings that have a row in them.

    Args:
        catalogue: the vectors.
        layers: the blocks that this process runs.
        requests: the most requests that run at once.
        tokens: the most tokens of a batch.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        layers: Sequence[int],
        requests: int,
        tokens: int,
        device: torch.device,
    ) -> None:
        self.catalogue = catalogue
        self.row_of_token = torch.zeros(tokens, dtype=torch.long, device=device)
        self.rows: dict[SteeringRequest, int] = {}
        self.capacity = requests
        steered = {layer for served in catalogue.vectors.values() for layer in served.vector.layers}
        self.blocks: Mapping[int, BlockTable] = {
            layer: BlockTable(catalogue, layer, requests, self.row_of_token)
            for layer in sorted(steered & set(layers))
        }
        self.active = False

    def rows_of(self, requests: Sequence[SteeringRequest | None]) -> list[int]:
        """The rows of a batch's steerings; those that have none yet get one."""
        wanted = dict.fromkeys(request for request in requests if request is not None)
        if len(self.rows.keys() | wanted.keys()) > self.capacity:
            self.rows = {known: row for known, row in self.rows.items() if known in wanted}
        free = iter(sorted(set(range(1, self.capacity + 1)) - set(self.rows.values())))
        for request in wanted:
            if request not in self.rows:
                self.rows[request] = next(free)
                self._write(self.rows[request], request)
        return [0 if request is None else self.rows[request] for request in requests]

    def _write(self, row: int, request: SteeringRequest) -> None:
        steering = self.catalogue.steering(request)
        vector = self.catalogue.vectors[request.vector].vector
        for block in self.blocks.values():
            block.clear(row)
        for index, layer in enumerate(vector.layers):
            if layer in self.blocks:
                clamps = vector.operation == "clamp"
                self.blocks[layer].write(row, request.vector, steering.target(index), clamps)

    def set_tokens(self, rows: Int[Tensor, "tokens"]) -> None:
        """Say which row steers each token of the coming pass; tokens beyond are left alone."""
        if self.active:
            self.row_of_token.zero_()
        self.active = bool(rows.any())
        if self.active:
            self.row_of_token[: len(rows)] = rows.to(self.row_of_token.device)
        for block in self.blocks.values():
            block.active = self.active
