"""`concept-das evaluate`."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.cli.train import HELDOUT_HASH
from concept_das.errors import InputError
from concept_das.runs.alone import alone_in
from concept_das.words import Direction, Rule

log = logging.getLogger(__name__)


def evaluate_vector(
    vector: str,
    loading: ModelOptions,
    data: str | None = None,
    multipliers: list[float] = [0.5, 1.0, 1.5, 2.0, 3.0],  # noqa: B006 (shown in the help)
    rule: Rule = "paper",
    batch_size: int = 8,
    out: Path | None = None,
) -> None:
    """Measure a vector: recovery in both directions, held-out JSD, side effect.

    The run's own held-out rows give the metrics in the vector's description. Recovery is printed
    at multiplier 1 (fixed), with each half of the rows at the multiplier that is best on the other
    half (fair), and at the best multiplier, chosen on the rows it is reported on (oracle).

    Args:
        vector: folder of a saved vector, or another name as steer takes; then give data and out.
        data: rows the vector was not trained on; the run's own held-out rows if not given.
        multipliers: strengths to try, without unit.
        rule: paper (multiplier times the measured factor) or interpolate (along the line between
            the two measured means).
        batch_size: rows per forward pass.
        out: folder for evaluation.csv and rows.parquet; beside the vector if not given.
    """
    from concept_das import evaluate, load_vector, read_quadruples
    from concept_das.data.quadruples import data_hash
    from concept_das.runs.files import check_writable, write_atomically

    saved = load_vector(vector)
    place = Path(vector)
    if not place.exists() and (data is None or out is None):
        raise InputError(f"{vector} is no folder of a run; give rows as data, and a folder as out")
    source = data or str(place.parent / "heldout.parquet")
    rows = read_quadruples(source)
    if data is None and saved.recipe.get(HELDOUT_HASH, data_hash(rows)) != data_hash(rows):
        raise InputError(
            f"{source} does not hold the rows that were held out when {vector} was trained; "
            "train again, or give rows that it was not trained on as data"
        )
    trained = place.parent / "train.parquet"
    if data is not None and trained.exists():
        inputs = {row.negative_input for row in read_quadruples(trained)}
        if known := sum(row.negative_input in inputs for row in rows):
            log.warning(
                "%d of %d rows have an input that %s was trained on", known, len(rows), vector
            )
    folder = out or place.parent
    check_writable(folder / "evaluation.csv")
    loaded = loading.load_for(saved)
    chat = ChatOptions.of_vector(saved).of(loaded)
    limit = int(saved.recipe.get("max_response_tokens", 128))
    encoded = loaded.encode(chat, rows, limit)
    with alone_in(folder):
        result = evaluate(
            loaded.model,
            chat,
            saved,
            encoded,
            multipliers=multipliers,
            rule=rule,
            batch_size=batch_size,
            partial=folder / "evaluation.partial.json",
        )
        write_atomically(folder / "evaluation.csv", result.table.to_csv(index=False).encode())
        write_atomically(folder / "rows.parquet", result.rows.to_parquet(index=False))
        metrics = result.headline()
        if data is None:  # the vector's own held-out rows; what other rows gave stays in `folder`
            replace(saved, metrics={**metrics, "rule": rule}).save(place)
        (folder / "evaluation.partial.json").unlink(missing_ok=True)
    print(result.table.round(3).to_string(index=False))
    for direction in saved.directions:
        print(_headline(direction, metrics))


def _headline(direction: Direction, metrics: Mapping[str, float]) -> str:
    """A sentence with the recoveries and the gap of a direction."""
    from concept_das.words import RECOVERY

    name, gap = RECOVERY[direction], f"gap_{direction}"
    fixed = f"{metrics[f'{name}_at_1']:.2f} at 1 (fixed), " if f"{name}_at_1" in metrics else ""
    return (
        f"{direction}: recovery {fixed}{metrics[name]:.2f} (fair), {metrics[f'{name}_oracle']:.2f} "
        f"at {metrics[f'multiplier_{direction}_oracle']:g} (oracle: chosen on the rows it is "
        f"reported on); gap {metrics[gap]:.3g} [{metrics[f'{gap}_low']:.3g}, "
        f"{metrics[f'{gap}_high']:.3g}] nats per token"
    )
