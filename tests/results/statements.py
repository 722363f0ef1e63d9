"""The statements of results/README.md, their numbers made from its csv files.

Each is a list item of its section, word for word. `python -m tests.results.statements` prints them.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from tests.results.cases import backdoor, organisms, refusal, speed
from tests.results.reading import (
    ELICIT,
    JSD_ELICIT,
    JSD_SUPPRESS,
    KL_ELICIT,
    KL_SUPPRESS,
    SUPPRESS,
    bracketed,
    interval,
    percent,
    read,
    span,
)
from tests.results.tables import figures

_PIRATE = 1000

INTERCHANGE = ("cdas", "das", "kl_", "apsr")
"""How the names of the methods begin that suppress more than the others."""


def _by_concept(path: str, multiplier: float = 1.0) -> pd.DataFrame:
    """Means over seeds, by method and concept."""
    table = read(path)
    return (
        table[table["multiplier"] == multiplier]
        .groupby(["method", "concept_id"])
        .mean(numeric_only=True)
    )


def _gain(means: pd.DataFrame, first: str, second: str, name: str) -> str:
    """A difference of two methods with its interval over concepts."""
    return interval(means.loc[first, name] - means.loc[second, name])


def _pairs(table: pd.DataFrame, first: str, second: str, name: str) -> str:
    """In how many pairs of concept and seed one method has more than another."""
    wide = table.pivot(index=["concept_id", "seed"], columns="method", values=name)
    more = wide[first] > wide[second]
    return f"{int(more.sum())} of {len(more)}"


def demo() -> Iterator[str]:
    found, table = figures("demo/metrics.json"), read("demo/evaluation.csv")
    best = table.loc[table[ELICIT].idxmax(), "multiplier"]
    yield (
        f"{found['seconds']:.0f} seconds on two cores, installation not counted. Elicitation is "
        f"highest at multiplier {best:g}."
    )
    elicited, asked, bare, away = _recognised(found)
    yield (
        f"Of eight held-out instructions answered with the concept elicited, {elicited} have a "
        "word that marks the pirate in the training texts; of the model's own answers when it is "
        f"asked for a pirate {asked}, of unsteered and suppressed ones {bare} and {away}."
    )
    other = read("demo/sea.csv").set_index("multiplier").loc[1.0]
    elicited, asked, bare, away = _recognised(figures("demo/sea.json"))
    yield (
        "A concept that the model itself follows more often is heard more often: with a story "
        f"about the sea {elicited} of the elicited answers have one of its words (sea, story, "
        f"tale, ...), {asked} of the prompted ones, {bare} of the unsteered and {away} of the "
        "suppressed ones. Recovery is "
        f"{bracketed(other, ELICIT)} and {bracketed(other, SUPPRESS)}, the KL side effect "
        f"{other[KL_ELICIT]:.3f} and {other[KL_SUPPRESS]:.3f} nats."
    )


def _recognised(found: Mapping[str, float]) -> list[str]:
    """Shares of answers with the concept's words: elicited, prompted, unsteered, suppressed."""
    ways = (
        "bare instruction, elicited",
        "concept asked for, unsteered",
        "bare instruction, unsteered",
        "concept asked for, suppressed",
    )
    return [percent(found[f"recognised: {way}"]) for way in ways]


def blocks() -> Iterator[str]:
    table = read("blocks/table.csv")
    at_one, means = table[table["multiplier"] == 1], _by_concept("blocks/table.csv")
    several, learned, teacher = "cdas@spread", "cdas_learned@spread", "kl_teacher_student@spread"
    yield (
        "Eight blocks do more than one, in both directions: "
        f"{_gain(means, several, 'cdas', ELICIT)} and {_gain(means, several, 'cdas', SUPPRESS)} "
        f"more recovery, in {_pairs(at_one, several, 'cdas', ELICIT)} and "
        f"{_pairs(at_one, several, 'cdas', SUPPRESS)} pairs of concept and seed. Rank 4 at one "
        f"block gains {_gain(means, 'cdas@rank4', 'cdas', ELICIT)} and "
        f"{_gain(means, 'cdas@rank4', 'cdas', SUPPRESS)}."
    )
    fair = table.drop_duplicates(["method", "concept_id", "seed"]).groupby("method")
    gained = fair[f"{ELICIT}_fair"].mean() - at_one.groupby("method")[ELICIT].mean()
    gone = fair[f"{SUPPRESS}_fair"].mean() - at_one.groupby("method")[SUPPRESS].mean()
    yield (
        "There is nothing to tune at eight blocks: the fair multiplier changes elicitation by "
        f"{gained[several]:.2f} (cdas) and {gained[learned]:.2f} (learned), suppression by "
        f"{abs(gone[several]):.2f} and {abs(gone[learned]):.2f}."
    )
    most = table.groupby(["method", "multiplier"])[SUPPRESS].mean().groupby("method").max()
    others = most[~most.index.str.startswith(INTERCHANGE)].dropna()
    yield (
        "Suppression is what the interchange methods have: at its best multiplier no method but "
        f"CDAS, the KLs, DAS and A-PSR suppresses by more than {others.max():.2f}. DAS at eight "
        f"blocks reaches {most['das@spread']:.2f}, past the prompt, with a held-out JSD of "
        f"{means.loc['das@spread', JSD_SUPPRESS].mean():.3f} against "
        f"{means.loc[several, JSD_SUPPRESS].mean():.3f}."
    )
    yield (
        "Learned factors: "
        f"{_gain(means, learned, several, ELICIT)} more elicitation, "
        f"{_gain(means, learned, several, SUPPRESS)} more suppression than measured ones. The "
        "first is not certain over four concepts."
    )
    yield (
        "JSD against KL(teacher || student): "
        f"{_gain(means, teacher, several, ELICIT)} elicitation and "
        f"{_gain(means, teacher, several, SUPPRESS)} suppression for the KL. The first is mostly "
        f"one concept; in {means.loc[teacher, SUPPRESS].lt(means.loc[several, SUPPRESS]).sum()} of "
        "4 the KL suppresses less."
    )
    tenth = _by_concept("blocks/table.csv", 0.1)[SUPPRESS] / means[SUPPRESS]
    yield (
        "That suppression needs no factor says little: a tenth of the factor already suppresses "
        f"{percent(tenth['cdas'].min())} to {percent(tenth['cdas'].max())} as much at one block, "
        f"{percent(tenth[several].min())} to {percent(tenth[several].max())} at eight, and "
        f"{percent(tenth[learned].min())} to {percent(tenth[learned].max())} with learned factors."
    )
    reps = pd.Series({c: _at_recovery(table, "reps", c, several) for c in means.loc["reps"].index})
    lora = pd.Series({c: _at_recovery(table, "lora", c, several) for c in means.loc["lora"].index})
    ours = means.loc[several, KL_ELICIT]
    yield (
        "Eliciting has not the smallest side effect: where RePS and LoRA are scaled down to the "
        f"recovery of CDAS at eight blocks, their KLs on unrelated text are {span(reps)} and "
        f"{span(lora)} nats by concept against {span(ours)}. A-PSR, which edits new tokens only, "
        "elicits as much with "
        f"{means.loc['apsr@fast', KL_ELICIT].mean():.3f} nats against {ours.mean():.3f}, and "
        f"suppresses less ({means.loc['apsr@fast', SUPPRESS].mean():.2f})."
    )
    mean = means.groupby("method").mean()
    yield (
        "Recovery is a likelihood of given texts and favours what was trained on such texts: RePS "
        f"reaches {mean.loc['reps', ELICIT]:.2f}, past the prompt itself "
        f"({mean.loc['prompt', ELICIT]:.2f}), at a held-out JSD of "
        f"{mean.loc['reps', JSD_ELICIT]:.3f} where CDAS has {mean.loc['cdas', JSD_ELICIT]:.3f} "
        f"at one block and {mean.loc[several, JSD_ELICIT]:.3f} at eight, and the prompt "
        f"{mean.loc['prompt', JSD_ELICIT]:.3f}."
    )
    words = read("blocks/recognised.csv").set_index(["concept_id", "method", "direction"])
    share = (words["count"] / words["answers"]).to_dict()
    plain = read("blocks/recognised.csv").query("direction != direction")
    said = plain.assign(share=plain["count"] / plain["answers"])
    said = said.set_index(["concept_id", "method"])["share"]
    asked = "asked for in the prompt"
    yield (
        "Words that mark the pirate are in "
        f"{percent(share[_PIRATE, learned, 'elicit'])} of the answers that cdas_learned elicits "
        f"(cdas at one block {percent(share[_PIRATE, 'cdas', 'elicit'])}; asked for in the prompt "
        f"{percent(said[_PIRATE, asked])}, unsteered {percent(said[_PIRATE, 'unsteered'])}; four "
        "instructions, three seeds). On concept 0 they are in "
        f"{percent(share[0, learned, 'elicit'])}, fewer than unsteered "
        f"({percent(said[0, 'unsteered'])}): its words are everyday ones."
    )
    positions = read("blocks/positions.csv").query("multiplier == 1").set_index("positions")
    yield (
        "Four tokens of the prompt do what every token does, with nothing to edit while tokens are "
        f"generated ({positions.loc['p2+s2', ELICIT]:.2f} and "
        f"{positions.loc['p2+s2', SUPPRESS]:.2f}); editing new tokens alone does less "
        f"({positions.loc['generated', ELICIT]:.2f} and "
        f"{positions.loc['generated', SUPPRESS]:.2f}). One concept, one seed."
    )


def _at_recovery(table: pd.DataFrame, method: str, concept: int, ours: str) -> float:
    """A method's side effect where it elicits as much as ours at 1, between its multipliers."""
    curves = table[table["concept_id"] == concept].groupby(["method", "multiplier"])
    curve = curves[[ELICIT, KL_ELICIT]].mean()
    wanted = float(curve.loc[(ours, 1.0), ELICIT])
    own = pd.concat([pd.DataFrame({ELICIT: [0.0], KL_ELICIT: [0.0]}), curve.loc[method]])
    last = int(np.argmax(own[ELICIT].to_numpy() >= wanted))
    pair = own.iloc[last - 1 : last + 1]
    return float(np.interp(wanted, pair[ELICIT], pair[KL_ELICIT]))


def axbench() -> Iterator[str]:
    table = read("axbench/table.csv").fillna({"factor": "NA"})
    rows = table.set_index(["direction", "factor", "method"])
    score = rows["score"]
    yield (
        "Towards a concept this model shows the proxy next to nothing, even where it is asked: "
        f"{score['elicit', 'NA', 'prompt']:.2f} by prompting, "
        f"{score['elicit', 'NA', 'unsteered']:.2f} untouched. CDAS has "
        f"{score['elicit', 'fair', 'cdas']:.2f} at every multiplier; Lang., RePS and DAS, which "
        "learn the concept's texts, have "
        f"{bracketed(rows.loc[('elicit', 'fair', 'lang')], 'score')}, "
        f"{bracketed(rows.loc[('elicit', 'fair', 'reps')], 'score')} and "
        f"{bracketed(rows.loc[('elicit', 'fair', 'das')], 'score')}; at multiplier 1 "
        f"{score['elicit', 'fixed', 'lang']:.2f}, {score['elicit', 'fixed', 'reps']:.2f} and "
        f"{score['elicit', 'fixed', 'das']:.2f}."
    )
    against = read("axbench/winners.csv").query("direction == 'suppress' and factor == 'fixed'")
    gained = against.set_index(["reference", "method"])
    yield (
        "Away from it CDAS scores highest, fair and fixed. Fixed it has "
        f"{score['suppress', 'fixed', 'cdas']:.2f} against "
        f"{score['suppress', 'NA', 'unsteered']:.2f} untouched, a difference of "
        f"{bracketed(gained.loc[('unsteered', 'cdas')], 'difference')}, and the others are below "
        f"it by {-gained.loc[('cdas', 'lang'), 'difference']:.2f} (Lang.) to "
        f"{-gained.loc[('cdas', 'diffmean'), 'difference']:.2f} (DiffMean). With five concepts "
        "nothing can be tested."
    )
    auroc = read("axbench/detection.csv").groupby("method")["auroc"].mean()
    yield (
        "Directions trained to raise the concept's own text detect it "
        f"({span(auroc[['diffmean', 'lang', 'reps']])}), those trained to swap a coordinate "
        f"less ({span(auroc[['cdas', 'das']])})."
    )
    elicited = rows.loc["elicit"]
    yield (
        "The proxy is blunt: relatedness is near its ceiling when eliciting "
        f"({span(elicited['instruction_rating'], 1)} of 2), and a probe on AxBench's own texts "
        "finds the concept in few answers of 32 tokens."
    )


STATEMENTS = {
    "demo": demo,
    "blocks": blocks,
    "axbench": axbench,
    "organisms": organisms,
    "refusal": refusal,
    "backdoor": backdoor,
    "speed": speed,
}


if __name__ == "__main__":
    for section, make in STATEMENTS.items():
        print(f"## {section}\n")
        print("\n".join(f"- {one}" for one in make()), end="\n\n")
