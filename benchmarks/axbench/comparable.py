"""The differences that keep a run's scores from standing beside published ones."""

from collections.abc import Mapping, Sequence

from benchmarks.axbench.data import ALPACA_EVAL_COUNT, CONCEPT_COUNT, AxBenchData
from benchmarks.axbench.presets import Preset
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.ratings import Kind
from benchmarks.models import is_model
from benchmarks.steps import Answering, Subject

PROXY = (
    "These are proxy ratings: a probe and the unsteered model's likelihoods gave them, no language "
    "model was asked about the answers. They are not AxBench scores."
)

_OTHER_JUDGES: dict[Kind, tuple[str, ...]] = {
    "api": (),
    "local": ("a local model rated the answers, not gpt-4o-mini",),
    "proxy": ("these are proxy ratings, not gpt-4o-mini's",),
}

APART = "It is not comparable with the published score: the method's settings are others."


def reasons_in_words(kind: Kind, differences: Sequence[str]) -> str:
    """A sentence on what keeps scores from standing beside published ones; empty if nothing."""
    reasons = "; ".join(differences or _OTHER_JUDGES[kind])
    return f"They are not comparable with published scores: {reasons}." if reasons else ""


# Of AxBench and the release: its judge and its sampling.
_JUDGE = "gpt-4o-mini"
_SAMPLING = {"new_tokens": 128, "temperature": 1.0, "top_k": 50}


def differences(
    preset: Preset,
    subject: Subject,
    data: AxBenchData,
    judging: JudgeOptions,
    answering: Answering,
) -> list[str]:
    """Model, judge, questions, sampling and data where they are not the paper's, in words.

    A run of a part of the concepts is no other measurement, only a wider one.
    """
    found = []
    published = preset.recipe.loading["model"]
    if not is_model(subject.name, published):
        found.append(f"the model is {subject.name}, not {published}")
    if subject.chat_options.chat_template != preset.recipe.chat_template:
        found.append("the chat template is another")
    if judging.judge == "proxy":
        found.append(f"proxy ratings, not {_JUDGE}'s")
    else:
        if judging.judge != "api" or judging.endpoint.model != _JUDGE:
            found.append(f"the judge is {judging.description['model']}, not {_JUDGE}")
        if judging.axbench is None:
            found.append("the judge's questions are this project's, not AxBench's")
    sampling = {name: getattr(answering, name) for name in _SAMPLING}
    if sampling != _SAMPLING or answering.top_p is not None:
        found.append(
            f"answers of {answering.new_tokens} tokens are {answering.in_words}, not of "
            f"{_SAMPLING['new_tokens']} tokens at temperature 1, top-k 50"
        )
    if len(data.concept_ids) != CONCEPT_COUNT:
        found.append(f"the data have {len(data.concept_ids)} concepts, not Concept500's")
    if data.instruction_count != ALPACA_EVAL_COUNT:
        found.append(f"there are {data.instruction_count} instructions, not AlpacaEval's 805")
    if not data.has_contrastive:
        found.append("the neutral responses are not the release's")
    return found


def changed_methods(preset: Preset, changes: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Methods whose scores are of other settings than the published ones: the user's own."""
    everywhere = bool(changes.get("all"))
    own = [name for name, source in preset.recipe.sources.items() if _is_own(source)]
    return [name for name in preset.methods if everywhere or changes.get(name) or name in own]


def _is_own(source: str) -> bool:
    return source.startswith("this project")
