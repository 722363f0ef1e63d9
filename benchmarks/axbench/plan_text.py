"""The plan of a run in words and tables, with everything that its estimates rest on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.hardware import Hardware, Share
from benchmarks.judges.endpoint import EXPECTED_TOKENS
from benchmarks.judges.prices import CHARACTERS_PER_TOKEN, PRICES, Price
from benchmarks.judges.ratings import QUESTIONS

if TYPE_CHECKING:
    from benchmarks.axbench.plan import Plan

STAGE_TITLES = {
    "data": "neutral responses",
    "train": "training",
    "latents": "factors, detection",
    "generate": "answers",
    "judge": "judging",
}
"""The stages of a run, in order."""

STAGES = tuple(STAGE_TITLES)


def plan_lines(plan: "Plan", hardware: Hardware, share: Share, judge_model: str) -> Iterator[str]:
    """The lines of `Plan.text`."""
    preset, table = plan.preset, plan.table
    yield (
        f"Plan of {preset.name}: nothing has been run. Rows, steps, answers and requests follow "
        "from the preset; tokens, hours and dollars are estimates."
    )
    yield (
        f"{preset.model}, {plan.shape.parameters / 1e9:.2f}e9 parameters, layer {preset.layer}; "
        f"{plan.concepts} concepts of {plan.rows_per_concept} rows, "
        f"{preset.instructions_per_concept} instructions each"
    )
    yield from ("", "Per method, all concepts:", _methods(table).to_string(index=False))
    yield ""
    price = PRICES.get(judge_model)
    hours = plan.hours(hardware, share)
    stages = pd.DataFrame(
        {
            "hours": hours.groupby(table["stage"]).sum().map("{:.2f}".format),
            "answers": table.groupby("stage")["answers"].sum().map("{:,.0f}".format),
            "requests": table.groupby("stage")["requests"].sum().map("{:,.0f}".format),
        }
    )
    if price is not None:
        dollars = plan.dollars(price)
        stages["dollars"] = dollars.groupby(table["stage"]).sum().map("{:.2f}".format)
    ordered = stages.reindex(STAGES).rename(index=STAGE_TITLES)
    yield f"Per stage, on one {hardware.name}:"
    yield ordered.to_string()
    yield f"Together about {hours.sum():.2f} hours" + (
        f" and ${plan.dollars(price).sum():.2f}." if price else "."
    )
    weights = plan.shape.parameters * hardware.bytes_per_number
    if hardware.memory is not None and weights > hardware.memory:
        yield (
            f"The weights alone take {weights / 1e9:.0f} GB and do not fit into {hardware.name}'s "
            f"{hardware.memory / 1e9:.0f} GB: take more or larger GPUs, or 4 bits."
        )
    yield from ("", "Estimated from:")
    yield from (f"- {line}" for line in _assumptions(plan, hardware, share, judge_model, price))


def _methods(table: pd.DataFrame) -> pd.DataFrame:
    """One line per method."""
    parts = [
        table[table["stage"] == stage].set_index("method")[columns]
        for stage, columns in (
            ("train", ["rows", "steps", "training_tokens"]),
            ("generate", ["multipliers", "directions", "answers", "new_tokens"]),
        )
    ]
    joined = pd.concat(parts, axis=1)
    return joined.map("{:,.0f}".format).reset_index()


def _assumptions(
    plan: "Plan", hardware: Hardware, share: Share, judge_model: str, price: Price | None
) -> Iterator[str]:
    lengths, preset = plan.lengths, plan.preset
    yield (
        f"lengths in tokens: neutral instruction {lengths.neutral_input:g}, concept "
        f"{lengths.concept_input:g}, test {lengths.test_input:g}, neutral response "
        f"{lengths.neutral_output:g}, concept's {lengths.concept_output:g} (cut to each method's "
        f"own limit), template {lengths.prefix} + {lengths.suffix}; {lengths.source}"
    )
    yield (
        f"{hardware.flops / 1e12:.4g} TFLOP/s and {hardware.bandwidth / 1e9:.4g} GB/s, weights of "
        f"{hardware.bytes_per_number} bytes ({hardware.source})"
    )
    yield (
        f"{share.value:.0%} of them reached: the training engine's share of the attainable "
        f"matrix-product rate, measured by this project ({share.source}; "
        "results/speed/speed.json, gemm_fraction). No GPU and no share of bandwidth has been "
        "measured; both are taken to be the same"
    )
    yield (
        "training: untouched states once, then each step forward and backward through the blocks "
        "above the site, and the head at response positions, the teacher's logits projected again "
        "each time; weights get no gradient; no padding"
    )
    yield (
        f"detection: {plan.rows_per_concept} texts with the concept and as many without, up to the "
        "layer"
    )
    yield (
        f"answers: all {preset.new_tokens} tokens long, in one call per method, directions "
        f"{', '.join(plan.directions)}; a decoding step takes the longer of its arithmetic and of "
        "reading the weights, keys and values once"
    )
    if plan.neutral == "given":
        yield "neutral responses are in the data"
    else:
        yield f"neutral responses are made by the {plan.neutral}, one for each row"
    if preset.judge == "api":
        yield (
            f"judge: {len(QUESTIONS)} questions for each answer, {CHARACTERS_PER_TOKEN} characters "
            f"a token, {EXPECTED_TOKENS} tokens of answer; its waiting is not in the "
            "hours"
        )
    else:
        yield f"judge: {preset.judge}, which asks no endpoint; its time is not in the hours"
    if price is None:
        yield f"{judge_model} has no price in benchmarks/judges/prices.py, so dollars are left out"
    else:
        yield (
            f"{judge_model} at ${price.prompt:g} and ${price.completion:g} per million tokens in "
            "and out, a list price"
        )
    yield (
        "not counted, so that a run takes longer: loading, saving, kernel launches and Python "
        "(which lead when a small model decodes on a fast GPU), sampling on the CPU, other users"
    )
