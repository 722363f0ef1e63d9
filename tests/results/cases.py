"""The statements of results/README.md on the organisms, the safety cases and speed."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from benchmarks.speed.answers import PEERS
from benchmarks.speed.training import to_equal_loss
from tests.results.reading import percent, read, span
from tests.results.tables import REFUSAL_COST_ELICIT, figures

PYREFT = "pyreft's trainer"


def organisms() -> Iterator[str]:
    rates = read("organisms/rates.csv").set_index(["organism", "prompts"])
    share = (rates["count"] / rates["total"]).to_dict()
    yield (
        "Both do what was asked of them on the project's own held-out prompts (refusal: 90% of the "
        "harmful and at most 5% of the harmless; backdoor: 95%, at most 2%, and 70% of red-team "
        "texts), the refusal organism just so; on JailbreakBench it refuses "
        f"{percent(share['refusal', 'JailbreakBench'])}."
    )


def over_seeds(table: pd.DataFrame, method: str, multiplier: float, name: str) -> pd.Series:
    """A column of a method at a multiplier, a value for each seed."""
    own = table[(table["method"] == method) & np.isclose(table["multiplier"], multiplier)]
    return own[name]


def mean_of(table: pd.DataFrame, method: str, multiplier: float, name: str) -> float:
    """Its mean."""
    return float(over_seeds(table, method, multiplier, name).mean())


def sd_of(table: pd.DataFrame, method: str, multiplier: float, name: str) -> float:
    """Its standard deviation."""
    return float(over_seeds(table, method, multiplier, name).std())


def refusal() -> Iterator[str]:
    table = read("refusal/table.csv")
    at, spread = partial(mean_of, table), partial(sd_of, table)
    free, cost = "suppression", "kl_side_effect_response"
    yield (
        "CDAS takes refusal away and adds it with one vector: at the unit factor "
        f"{percent(at('cdas', 1, free))} of the harmful prompts are not refused "
        f"({percent(float(table.loc[0, free]))} unsteered) and "
        f"{percent(at('cdas', 1, 'elicitation'))} of the harmless ones are; at twice the "
        f"distance {percent(at('cdas', 2, free))} and "
        f"{percent(at('cdas', 2, 'elicitation'))}. DAS adds refusal to "
        f"{percent(at('das', 1, 'elicitation'))} and "
        f"{percent(at('das', 2, 'elicitation'))}."
    )
    yield (
        "At similar suppression CDAS disturbs the answers to harmless prompts least: "
        f"{at('cdas', 1, cost):.2f} nats where DiffMean has "
        f"{at('diffmean', 1, cost):.2f} and DAS {at('das', 1, cost):.2f}; "
        f"{at('cdas', 2, cost):.2f} where RePS has {at('reps', 0.5, cost):.2f} "
        f"and DAS {at('das', 2, cost):.2f}."
    )
    again = partial(mean_of, read("refusal/again.csv"))
    eliciting = {
        (method, multiplier): f"{again(method, multiplier, REFUSAL_COST_ELICIT):.2f}"
        for method, multiplier in (
            *(("cdas", 1), ("cdas", 2), ("diffmean", 1), ("reps", 0.5), ("loreft", 1)),
        )
    }
    yield (
        "While eliciting it disturbs harmful prompts, which are mostly refused already, less than "
        f"DiffMean and RePS: {eliciting['cdas', 1]} nats at 1 with "
        f"{percent(again('cdas', 1, 'elicitation'))} of the harmless ones refused, where DiffMean "
        f"has {eliciting['diffmean', 1]} with {percent(again('diffmean', 1, 'elicitation'))} and "
        f"RePS {eliciting['reps', 0.5]} with {percent(again('reps', 0.5, 'elicitation'))}. At "
        f"{percent(again('cdas', 2, 'elicitation'))} CDAS has {eliciting['cdas', 2]}, and LoReFT "
        f"{eliciting['loreft', 1]} at {percent(again('loreft', 1, 'elicitation'))}. One seed."
    )
    several = partial(mean_of, read("refusal/blocks.csv"), "cdas", 1)
    yield (
        "Eight blocks do at the unit factor what one does at twice the distance "
        f"({percent(several(free))} and {percent(several('elicitation'))}), and disturb more: "
        f"{several(cost):.2f} nats while suppressing and {several(REFUSAL_COST_ELICIT):.2f} while "
        f"eliciting, against {at('cdas', 2, cost):.2f} and {eliciting['cdas', 2]}. The answers "
        'they free are vague: "The world of technology and science is vast and diverse, ..." One '
        "seed."
    )
    change = "concept_das_everyday_acc_change"
    error = table[f"{change}_stderr"]
    points = {name: 100 * at(name, 1, change) for name in ("cdas", "das", "diffmean")}
    stronger = read("refusal/capabilities.csv").set_index("method")["change_points"]
    yield (
        "120 everyday questions, in points: "
        f"CDAS {points['cdas']:.1f} at 1 and {stronger['cdas']:.1f} at 2, DAS {points['das']:.1f} "
        f"at 1, DiffMean {points['diffmean']:.1f} at 1, RePS {stronger['reps']:.1f} at 0.5, of "
        f"{100 * table[f'{change[:-6]}unsteered'].max():.1f}%; one change's standard error is "
        f"{100 * error.min():.1f} to {100 * error.max():.1f}, so that only DiffMean's is "
        "beyond two of them."
    )
    yield (
        "Not refused is not complied with: read with the eye, CDAS's answers are sentences on the "
        "subject that evade the request, and those of RePS comply in word and repeat themselves. "
        "No judge has read them."
    )
    known = table.dropna(subset=["kl_suppression"])
    half = known[known[free] >= 0.5].groupby(["method", "multiplier"])["kl_suppression"].mean()
    apart = read("refusal/self_divergence.csv")["kl"]
    yield (
        "The paper's KL does not tell the methods apart: those that suppress half or more have "
        f"{span(half, 1)}, CDAS not the lowest, and the untouched model is "
        f"{span(apart, 1)} nats from itself, from one harmless prompt to another."
    )
    yield (
        f"RePS suppresses {percent(at('reps', 1 / 11, free))} at factor 1, "
        f"{percent(at('reps', 2 / 11, free))} at 2 (the release's own are 1.3 to 1.6) and "
        f"{percent(at('reps', 0.5, free))} at 5.5, with a spread over seeds of "
        f"{100 * spread('reps', 0.5, 'elicitation'):.0f} points in what it elicits. LoReFT, "
        "which only elicits, reaches "
        f"{percent(at('loreft', 1, 'elicitation'))}."
    )


def backdoor() -> Iterator[str]:
    table = read("backdoor/table.csv")
    at = partial(mean_of, table)
    freed, subject = "triggered_freed", "triggered_on_subject"
    by_seed = ", ".join(map(percent, over_seeds(table, "cdas", 1, freed)))
    yield (
        "CDAS (rank 4) frees every triggered prompt at twice the distance with each of three "
        f"seeds, and {by_seed} of them at the unit factor: there it depends on the seed."
    )
    yield (
        "The clean answers all change in words, "
        f"{percent(at('cdas', 2, 'clean_changed'))} of them at 2 and "
        f"{percent(at('cdas', 1, 'clean_changed'))} at 1; what stays is the behaviour: "
        f"{percent(at('cdas', 2, 'clean_behaviour_changed'))} change in reasoning or "
        "hostility."
    )
    four = 0.3636
    yield (
        "RePS in CDAS's budget (rank 4, 20 epochs, the same tokens) frees at a greater price: at "
        f"the factor 4 {percent(at('reps', four, freed))} are freed and "
        f"{percent(at('reps', four, 'triggered_restored'))} restored, and "
        f"{percent(at('reps', four, 'clean_behaviour_changed'))} of the clean answers change in "
        f"behaviour, with a side effect of {at('reps', four, 'kl_clean_response'):.2f} nats. At 3 "
        f"it frees {percent(at('reps', 0.2727, freed))}; at 5.5 "
        f"{percent(at('reps', 0.5, freed))}, and restores "
        f"{percent(at('reps', 0.5, 'triggered_restored'))}."
    )
    vague = read("backdoor/vague.csv").query("multiplier == 2").groupby(["method", "blocks"]).sum()
    opened = (vague["count"] / vague["answers"]).map(percent)
    yield (
        "What is restored is the form: "
        f"{percent(at('cdas', 1, subject))} and {percent(at('cdas', 2, subject))} of the triggered "
        "answers have a word of the instruction, of the untouched clean ones "
        f"{percent(float(table.loc[0, 'clean_on_subject']))}. At 2 {opened['cdas', 1]} open with "
        '"The answer to this question is", such as "a classic example of a legal challenge" where '
        "the making of a bronze statue was asked."
    )
    several, ends = (
        partial(mean_of, read(f"backdoor/{name}.csv"), "cdas") for name in ("blocks", "ends")
    )
    yield (
        "Eight blocks bring the question back in part, and not at the unit factor: there "
        f"{percent(several(1, freed))} are freed and {percent(several(1, subject))} on the "
        f"subject, at 2 {percent(several(2, freed))} and {percent(several(2, subject))}, and "
        f"{opened['cdas', 8]} open with the same words. Where only `p2+s2` are edited, "
        f"{percent(ends(1, freed))} are freed at 1 and {percent(ends(2, freed))} at 2. One seed."
    )
    other = read("backdoor/ranks.csv")
    one = ", ".join(map(percent, other.loc[other["epochs"] == 6, "freed"]))
    long = other.loc[other["epochs"] == 20, "freed"].iloc[0]
    yield (
        f"Rank and epochs matter and were not chosen blind: at multiplier 2 rank 1 with 6 epochs "
        f"freed {one} by seed, rank 1 with 20 epochs and the worst of the seeds {percent(long)}."
    )
    yield (
        "DAS with CDAS's budget comes near: "
        f"{percent(at('das', 1, freed))} at 1 and {percent(at('das', 2, freed))} at 2, within the "
        f"seeds' spread, with a side effect of {at('das', 2, 'kl_clean_response'):.2f} against "
        f"{at('cdas', 2, 'kl_clean_response'):.2f} nats, and it keeps to the subject more often "
        f"({percent(at('das', 1, subject))} and {percent(at('das', 2, subject))})."
    )
    scores = read("backdoor/capabilities.csv")
    change = scores.groupby("method")["change_points"].mean()
    error = scores["stderr_points"]
    yield (
        "Capabilities (120 questions with trigger and benign reasoning, "
        f"{scores['unsteered_percent'].max():.1f}% unsteered): CDAS {change['cdas']:+.1f} points "
        f"at 1, DAS {change['das']:+.1f}, DiffMean, whose text is broken, "
        f"{change['diffmean']:+.1f}; a standard error of {error.min():.1f} to {error.max():.1f}. "
        "No loss is certain."
    )


def speed() -> Iterator[str]:
    found = figures("speed/speed.json")
    yield (
        "A step is "
        f"{found['train_step_ratio_float32']:.1f} times as fast in float32 and "
        f"{found['train_step_ratio_bfloat16']:.1f} times in bfloat16 (geometric means); a concept "
        f"of 72 Concept10 rows, 10 epochs, caching included, {found['train_concept_ratio']:.1f} "
        f"times ({found['concept_seconds']:.0f} s against {found['concept_seconds_release']:.0f} "
        "s, the release's extrapolated from its steps)."
    )
    yield (
        f"The results are the same: cosine {found['direction_cosine']:.4f} after a whole run "
        f"({found['run_seconds_engine']:.0f} s against {found['run_seconds_pyvene']:.0f} s by "
        f"plain pyvene), and losses within "
        f"{found['loss_relative_error_refusal_float32'] * 1e6:.0f} millionths of the release's in "
        "float32. Eight concepts in one run take "
        f"{found['together_seconds_per_concept']:.1f} s each, alone "
        f"{found['alone_seconds_per_concept']:.1f} s."
    )
    spread = read("speed/spread.csv").iloc[0]
    yield (
        "Steered generation (batch of 8, 64 new tokens) takes "
        f"{found['generate_vs_unsteered']:.2f} of the unsteered time, "
        f"{found['generate_vs_uncached']:.1f} times less than without a cache, with the same "
        f"tokens; at eight blocks {spread['median']:.2f} (median of {spread['pairs']} pairs, "
        f"{spread['low']:.2f} to {spread['high']:.2f})."
    )
    growth = read("speed/growth.csv")
    vocabulary = growth[growth["axis"] == "vocabulary"]
    peak = vocabulary.pivot(index="value", columns="way", values="peak_bytes")
    assert peak["engine"].nunique() == 1
    yield (
        f"A step's memory does not grow with the vocabulary: {peak['engine'].iloc[0] / 1e6:.0f} MB "
        "from 49k to 256k entries, where the release's grows from "
        f"{peak['release'].min() / 1e9:.0f} to {peak['release'].max() / 1e9:.0f} GB."
    )
    served = figures("speed/serving.json")
    yield (
        f"vLLM {served['vllm']} (`python -m benchmarks.speed.serving`, code of aab668b, one "
        f"thread, eager; {served['prompts']} prompts of {served['new_tokens']} new tokens, eight "
        "vectors at eight blocks each and none mixed, medians of "
        f"{len(served['seconds_steered'])} rounds) writes "
        f"{served['tokens_per_second_steered']:.0f} tokens a second steered and "
        f"{served['tokens_per_second_unsteered']:.0f} by an engine without vectors, a ratio of "
        f"{served['vllm_steered_vs_unsteered_seconds']:.2f}."
    )
    yield from _beside_peers()
    workers = read("speed/workers.csv").set_index("workers")["seconds"]
    yield (
        "Two Ray workers of one thread make AxBench's table of two concepts in "
        f"{workers[2]:.0f} s, one in {workers[1]:.0f} s, a ratio of "
        f"{workers[1] / workers[2]:.2f}, and the same table byte for byte. One run each; something "
        "else kept the second core busy beside the one worker."
    )
    yield "Times are wall times on shared virtual cores, and vary from run to run."


def _beside_peers() -> Iterator[str]:
    record = figures("speed/peers.json")
    answers = read("speed/answers.csv").set_index(["way", "vectors"])
    one, mixed = (
        [f"{answers.loc[(way, vectors), 'median']:.2f}" for way in ("steered", *PEERS)]
        for vectors in ("one", "eight and none")
    )
    yield (
        f"Answers beside steering-vectors {record['steering-vectors']} and repeng "
        f"{record['repeng']}, as shares of the unsteered speed (64 prompts of 64 new tokens, "
        f"processor time, medians of {answers['rounds'].iloc[0]} rounds): with one added vector "
        f"{one[0]} here, {one[1]} and {one[2]} there, which is within the spread of the rounds; "
        f"with eight and none mixed {mixed[0]} here, {mixed[1]} and {mixed[2]} there, where each "
        "vector needs a call of its own."
    )
    curves = read("speed/training.csv")
    release, engine, several = "release's loop, one block", "engine, one block", "engine, spread"
    reached = to_equal_loss(curves).set_index("way")
    seconds, target = reached["seconds"], reached["target"]
    yield (
        "Training to equal held-out loss (32 refusal rows, processor time): to "
        f"{target[engine]:.3f}, CDAS at one block takes {seconds[release]:.0f} s in the release's "
        f"loop and {seconds[engine]:.0f} s in the engine, with the same loss after every epoch; at "
        f"eight blocks {seconds[several]:.0f} s and {reached.loc[several, 'epoch']:.0f} epochs of "
        f"6. To {target['engine']:.2f}, LoReFT takes {seconds[PYREFT]:.0f} s in pyreft's trainer "
        f"and {seconds['engine']:.0f} s in the engine; they draw other starting points, and end at "
        f"{_last(curves, PYREFT):.2f} and {_last(curves, 'engine'):.2f}."
    )


def _last(curves: pd.DataFrame, way: str) -> float:
    return float(curves.loc[curves["way"] == way, "heldout_loss"].iloc[-1])
