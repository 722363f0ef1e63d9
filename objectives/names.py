"""Names of the reductions, apart from their code, so that an option parser need not load torch."""

from typing import Literal, get_args

Reduction = Literal["sequence", "token"]


REDUCTIONS: tuple[str, ...] = get_args(Reduction)
