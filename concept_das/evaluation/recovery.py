"""Measure a vector on held-out rows, without a judge.

With ll the mean log-probability per response token (teacher-forced), averaged over rows:

    elicitation recovery = (ll(y+ | x-, steered) - ll(y+ | x-)) / (ll(y+ | x+) - ll(y+ | x-))
    suppression recovery = (ll(y- | x+, steered) - ll(y- | x+)) / (ll(y- | x-) - ll(y- | x+))

1 means that the vector does all that the prompt does, 0 that it does nothing, below 0 that it does
harm. The denominator, the gap, is the effect of the prompt itself. Where it is not clear there is
nothing to recover, and recovery is NaN: Student's 95% interval of the gap over rows has to be above
0. One row has no interval and no recovery; of two rows the gaps may differ by a sixth of their
mean. Two more measures: the Jensen-Shannon divergence between the steered model and the model under
the other prompt, and the side effect, KL(unsteered || steered) on unrelated text. If a method
cannot steer in a direction, its measures there are NaN.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from concept_das.data.batches import batches
from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.data.encoding import EncodedQuadruple, Interchange, encode_quadruples
from concept_das.data.quadruples import Quadruple
from concept_das.data.shipped import read_resource
from concept_das.errors import InputError
from concept_das.evaluation.by_strength import SteeredLogits, steered_logits
from concept_das.evaluation.intervals import mean_interval, mean_with_interval, ratio_interval
from concept_das.models.blocks import evaluating
from concept_das.models.logits import mean_log_likelihood
from concept_das.notebook import html_table, rounded
from concept_das.runs.files import fingerprint_of
from concept_das.runs.rows import RowLog
from concept_das.steering.artifact import Artifact
from concept_das.steering.context import Steering
from concept_das.words import DIRECTIONS, RECOVERY, Direction, Rule
from objectives import jensen_shannon, kl_teacher_student

log = logging.getLogger(__name__)

_POSITIVE = (0.0, np.inf)


@dataclass(frozen=True)
class Evaluation:
    """Measurements of one vector.

    Attributes:
        table: one row per multiplier: recoveries, `gap_*`, `heldout_jsd_*` and `kl_side_effect*`,
            each with a 95% interval over rows (`..._low`, `..._high`; Fieller's of recoveries,
            Student's of means), and `gain_*`. The gap is ll(prompted) - ll(unprompted) and the gain
            ll(steered) - ll(unprompted), in nats per token; recovery is gain / gap.
        rows: one row per held-out row, direction and multiplier: log-likelihoods and divergences,
            in nats per token.
    """

    table: pd.DataFrame
    rows: pd.DataFrame

    def best(self, direction: Direction) -> dict[str, float]:
        """The table's row at the multiplier with the highest gain in a direction (oracle).

        It is chosen on the rows that it is reported on; `fair` is not.
        """
        values = self.table[f"gain_{direction}"].fillna(-np.inf)
        row = self.table.iloc[int(values.to_numpy().argmax())]
        return {str(name): float(value) for name, value in row.items()}

    def at(self, multiplier: float) -> dict[str, float]:
        """The table's row at a multiplier."""
        row = self.table[self.table["multiplier"] == multiplier].iloc[0]
        return {str(name): float(value) for name, value in row.items()}

    def fair(self, direction: Direction) -> dict[str, float]:
        """The measures at multipliers that were chosen on other rows than those they are of.

        Held-out rows of even and of odd number choose for each other: the multiplier with the
        highest gain on one half is applied to the other half.

        Returns:
            The recovery, `heldout_jsd_*`, `kl_side_effect_*` and the mean of both `multiplier_*`;
            NaN for fewer than two rows, or a direction that the method cannot steer in.
        """
        own = self.rows[self.rows["direction"] == direction]
        held, unrelated = (own[own["kind"] == kind] for kind in ("heldout", "unrelated"))
        if held["row"].nunique() < 2:
            names = (f"{name}_{direction}" for name in ("heldout_jsd", "kl_side_effect"))
            return dict.fromkeys([RECOVERY[direction], *names, f"multiplier_{direction}"], np.nan)
        halves, effects, chosen = [], [], []
        for half in (0, 1):
            gains = held[held["row"] % 2 != half].groupby("multiplier")["ll_steered"].mean()
            chosen.append(float(gains.index[int(gains.fillna(-np.inf).argmax())]))
            halves.append(held[(held["row"] % 2 == half) & (held["multiplier"] == chosen[-1])])
            if not unrelated.empty:
                effects.append(unrelated[unrelated["multiplier"] == chosen[-1]]["kl"].mean())
        rows = pd.concat(halves)
        return {
            RECOVERY[direction]: recovery(*_likelihoods(rows))[0],
            f"heldout_jsd_{direction}": float(rows["jsd"].mean()),
            f"kl_side_effect_{direction}": float(np.mean(effects)) if effects else np.nan,
            f"multiplier_{direction}": float(np.mean(chosen)),
        }

    def headline(self) -> dict[str, float]:
        """The measures of each direction that the method can steer in.

        Recovery, divergence, side effect and multiplier are fair (see `fair`), and so chosen on
        other rows than they are reported on. Beside them stand the recovery at the fixed multiplier
        1 (`..._at_1`, if it was tried), the one of the best multiplier, chosen on the same rows
        (`..._oracle`), and the gap with its interval.
        """
        metrics: dict[str, float] = {}
        for direction, name in RECOVERY.items():
            if not self.table[f"gap_{direction}"].notna().any():  # the method cannot steer that way
                continue
            metrics |= self.fair(direction)
            if (self.table["multiplier"] == 1.0).any():
                metrics[f"{name}_at_1"] = self.at(1.0)[name]
            best = self.best(direction)
            metrics[f"{name}_oracle"] = best[name]
            metrics[f"multiplier_{direction}_oracle"] = best["multiplier"]
            for ending in ("", "_low", "_high"):
                metrics[f"gap_{direction}{ending}"] = best[f"gap_{direction}{ending}"]
        if "kl_side_effect" not in self.table:  # no unrelated text
            return {n: v for n, v in metrics.items() if not n.startswith("kl_side_effect")}
        effects = [metrics[name] for name in metrics if name.startswith("kl_side_effect_")]
        return {**metrics, "kl_side_effect": float(np.mean(effects))}

    def _repr_html_(self) -> str:
        """The measures of the table with their intervals, for notebooks."""
        shown = {
            name: f"{word}, {direction}"
            for direction in DIRECTIONS
            for name, word in (
                (RECOVERY[direction], "recovery"),
                (f"heldout_jsd_{direction}", "JSD"),
                (f"kl_side_effect_{direction}", "KL side effect"),
            )
            if name in self.table and self.table[name].notna().any()
        }
        rows = [
            [
                f"{row['multiplier']:g}",
                *(rounded(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in shown),
            ]
            for row in self.table.to_dict("records")
        ]
        return html_table("held-out rows, 95% intervals", rows, ["multiplier", *shown.values()])


def unrelated_turns(chat: ChatFormat, limit: int) -> list[Turn]:
    """Shipped prompts and passages that have nothing to do with any concept."""
    rows = read_resource("unrelated")[:limit]
    return [chat.prompt(r["instruction"]).with_response(chat.text_ids(r["response"])) for r in rows]


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    chat: ChatFormat,
    vector: Artifact,
    heldout: Sequence[EncodedQuadruple | Quadruple],
    *,
    multipliers: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 3.0),
    rule: Rule = "paper",
    unrelated: Sequence[Turn] | None = None,
    batch_size: int = 8,
    partial: Path | None = None,
) -> Evaluation:
    """Measure a vector on held-out rows at several strengths.

    Args:
        heldout: rows the vector was not trained on; rows of text are encoded as in its training.
        multipliers: strengths, without unit; see `SteeringVector.target`.
        unrelated: turns for the side effect; 16 shipped ones if None.
        partial: file that keeps finished batches, so that an interrupted evaluation continues.

    Raises:
        InputError: if there are no held-out rows or no multipliers, or the vector was trained with
            another chat format.
    """
    if not heldout:
        raise InputError("there are no held-out rows to evaluate on")
    if not multipliers:
        raise InputError("give at least one multiplier")
    rows = [_encoded(row, chat, vector) for row in heldout]
    unrelated = unrelated_turns(chat, 16) if unrelated is None else unrelated
    vector.check_model(model)
    vector.check_chat(chat)
    turns = [turn for row in rows for turn in (row.elicit.base, row.elicit.source)]
    logits = steered_logits(model, vector, [*turns, *unrelated])
    measure = _Measurement(logits, vector, tuple(multipliers), rule)
    work: list[tuple[str, Sequence[Any]]] = [
        ("heldout", chunk) for chunk in batches(list(enumerate(rows)), batch_size)
    ]
    work += [("unrelated", chunk) for chunk in batches(list(enumerate(unrelated)), batch_size)]
    signature = _signature(vector, rows, unrelated, multipliers, rule, batch_size)
    keys = [f"batch {number}" for number in range(len(work))]
    with evaluating(model), RowLog(partial, signature) as finished:
        for key, (kind, chunk) in zip(keys, tqdm(work, desc="evaluate"), strict=True):
            if finished.missing([key]):
                step = measure.heldout if kind == "heldout" else measure.unrelated
                finished.append(key, {"records": list(step(chunk))})
        batches_done = finished.frame(keys)["records"]
    measured = pd.DataFrame([record for batch in batches_done for record in batch])
    table = _summarise(measured)
    _warn_of_gaps(table, len(rows))
    return Evaluation(table, measured)


def _encoded(
    row: EncodedQuadruple | Quadruple, chat: ChatFormat, vector: Artifact
) -> EncodedQuadruple:
    if isinstance(row, EncodedQuadruple):
        return row
    longest = vector.recipe.get("max_response_tokens")
    return encode_quadruples([row], chat, max_response_tokens=longest)[0]


@dataclass(frozen=True)
class _Measurement:
    logits: SteeredLogits
    vector: Artifact
    multipliers: tuple[float, ...]
    rule: Rule

    def heldout(self, chunk: Sequence[tuple[int, EncodedQuadruple]]) -> Iterator[dict[str, Any]]:
        """Log-likelihoods and divergences of a batch of quadruples, both directions."""
        for direction in self.vector.directions:
            pairs: list[Interchange] = [getattr(row, direction) for _, row in chunk]
            bases = [pair.base for pair in pairs]
            teacher = self.logits.of([pair.source for pair in pairs])
            plain = self.logits.of(bases)
            responses = [pair.base.response for pair in pairs]
            ll_teacher = list(map(mean_log_likelihood, teacher, responses))
            ll_base = list(map(mean_log_likelihood, plain, responses))
            for multiplier in self.multipliers:
                steered = self.logits.of(bases, self._steering(direction, multiplier))
                for i, (number, _) in enumerate(chunk):
                    yield {
                        "kind": "heldout",
                        "row": number,
                        "direction": direction,
                        "multiplier": multiplier,
                        "ll_base": ll_base[i],
                        "ll_teacher": ll_teacher[i],
                        "ll_steered": mean_log_likelihood(steered[i], responses[i]),
                        "jsd": float(jensen_shannon(steered[i], teacher[i]).mean()),
                    }

    def unrelated(self, chunk: Sequence[tuple[int, Turn]]) -> Iterator[dict[str, Any]]:
        """KL(unsteered || steered) of a batch of unrelated turns, both directions."""
        turns = [turn for _, turn in chunk]
        plain = self.logits.of(turns)
        for direction in self.vector.directions:
            for multiplier in self.multipliers:
                steered = self.logits.of(turns, self._steering(direction, multiplier))
                for i, (number, _) in enumerate(chunk):
                    yield {
                        "kind": "unrelated",
                        "row": number,
                        "direction": direction,
                        "multiplier": multiplier,
                        "kl": float(kl_teacher_student(steered[i], plain[i]).mean()),
                    }

    def _steering(self, direction: Direction, multiplier: float) -> Steering:
        return Steering(self.vector, direction, multiplier, self.rule)


def recovery(
    base: Float[np.ndarray, "rows"],
    steered: Float[np.ndarray, "rows"],
    teacher: Float[np.ndarray, "rows"],
) -> tuple[float, float, float]:
    """Recovery with Fieller's 95% interval over rows; NaN if the gap is not clearly above 0.

    Args:
        base, steered, teacher: mean log-likelihoods per response token, one per row.
    """
    gap, gain = teacher - base, steered - base
    if not mean_interval(gap)[0] > 0:
        return float("nan"), float("nan"), float("nan")
    return float(gain.mean() / gap.mean()), *ratio_interval(gain, gap)


def _warn_of_gaps(table: pd.DataFrame, rows: int) -> None:
    """Say where the prompt's own effect is not clear, so that recovery is NaN."""
    first = table.iloc[0]
    unclear = [
        f"{direction} {first[f'gap_{direction}']:.3g} ({first[f'gap_{direction}_low']:.3g} to "
        f"{first[f'gap_{direction}_high']:.3g})"
        for direction in DIRECTIONS
        if not np.isnan(first[f"gap_{direction}"]) and not first[f"gap_{direction}_low"] > 0
    ]
    if unclear:
        log.warning(
            "recovery is NaN where the prompt's own effect is not clear: the 95%% interval of the "
            "gap, in nats per token, is not above 0 over %d rows: %s; hold out more rows, or check "
            "that the outputs have the concept",
            rows,
            ", ".join(unclear),
        )


def _likelihoods(held: pd.DataFrame) -> list[Float[np.ndarray, "rows"]]:
    """The arguments of `recovery`, from rows of a table."""
    return [held[f"ll_{name}"].to_numpy() for name in ("base", "steered", "teacher")]


def _summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per multiplier."""
    records = []
    for multiplier, group in rows.groupby("multiplier"):
        record: dict[str, Any] = {"multiplier": multiplier}
        for direction in DIRECTIONS:
            of_direction = group[group["direction"] == direction]
            held = of_direction[of_direction["kind"] == "heldout"]
            name = RECOVERY[direction]
            base, steered, teacher = _likelihoods(held)
            measured = recovery(base, steered, teacher)
            record |= dict(zip((name, f"{name}_low", f"{name}_high"), measured, strict=True))
            record |= mean_with_interval(f"gap_{direction}", teacher - base)
            record[f"gain_{direction}"] = float((steered - base).mean()) if len(held) else np.nan
            record |= mean_with_interval(f"heldout_jsd_{direction}", held["jsd"], within=_POSITIVE)
            if "kl" in of_direction:
                name, values = f"kl_side_effect_{direction}", of_direction["kl"]
                record |= mean_with_interval(name, values, within=_POSITIVE)
        if "kl" in group:
            # Both directions of a text are one unit: they are not independent.
            texts = group[group["kind"] == "unrelated"].groupby("row")["kl"].mean()
            record |= mean_with_interval("kl_side_effect", texts, within=_POSITIVE)
        records.append(record)
    return pd.DataFrame(records)


def _signature(
    vector: Artifact,
    heldout: Sequence[EncodedQuadruple],
    unrelated: Sequence[Turn],
    multipliers: Sequence[float],
    rule: Rule,
    batch_size: int,
) -> str:
    parts = [
        {name: value.tolist() for name, value in vector.tensors().items()},
        [[row.elicit.base.ids, row.suppress.base.ids] for row in heldout],
        [turn.ids for turn in unrelated],
        [vector.edit_description(), vector.prefix_length, vector.model.fingerprint],
        [list(multipliers), rule, batch_size],
    ]
    return fingerprint_of(parts)
