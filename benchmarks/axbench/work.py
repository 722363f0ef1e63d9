"""How much there is to compute for one concept and method, without computing it.

A method is asked for the runs of one row of average length, so whatever it does per row is counted
as it does it. Each number is of one concept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.shapes import ModelShape
from concept_das.data.chat_format import ChatFormat, Prompt, Turn
from concept_das.data.encoding import EncodedQuadruple, Interchange
from concept_das.data.quadruples import Quadruple
from concept_das.errors import InputError
from concept_das.methods.base import DirectionMethod, Method, TrainedMethod
from concept_das.methods.diffmean import DiffMean
from concept_das.methods.lora import LoRA
from concept_das.methods.registry import find_method
from concept_das.methods.settings import TrainingConfig


@dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens.

    Attributes:
        neutral_input, concept_input: the two instructions, without the template.
        neutral_output, concept_output: the two responses, before they are cut.
        test_input: instructions that answers are generated for.
        prefix, suffix: the chat template before and after the user's text.
        source: where they are from, for the printed plan.
    """

    neutral_input: float = 16
    concept_input: float = 46
    neutral_output: float = 103
    concept_output: float = 103
    test_input: float = 37
    prefix: int = 4
    suffix: int = 5
    source: str = (
        "assumed: the means of 720 AxBench training rows (2B, layer 20, 10 concepts) and of "
        "AlpacaEval's 805 instructions with SmolLM2's tokenizer; neutral responses as long as the "
        "concept's; a template of Gemma-2's length"
    )

    def __post_init__(self) -> None:
        for name in ("neutral_input", "concept_input", "neutral_output", "concept_output"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)} tokens; it must be at least 1")
        if not self.test_input >= 1 or self.prefix < 0 or self.suffix < 1:
            raise InputError(
                f"a test_input of {self.test_input} tokens between {self.prefix} and {self.suffix} "
                "of the template cannot be; the first and the last are at least 1"
            )

    @classmethod
    def of(
        cls,
        chat: ChatFormat,
        rows: Sequence[Quadruple],
        test_instructions: Sequence[str] = (),
    ) -> "Lengths":
        """Means over texts.

        Args:
            test_instructions: those assumed if there are none.

        Raises:
            InputError: if there are no rows.
        """
        if not rows:
            raise InputError("there are no rows to measure lengths on; give at least one")

        def mean(texts: Iterable[str]) -> float:
            return max(1.0, float(np.mean([len(chat.text_ids(text)) for text in texts])))

        source = f"measured on {len(rows)} rows"
        test_input = cls.test_input
        if test_instructions:
            test_input = mean(test_instructions)
            source += f" and {len(test_instructions)} test instructions"
        else:
            source += f"; test instructions assumed to be {test_input} tokens"
        return cls(
            neutral_input=mean(row.negative_input for row in rows),
            concept_input=mean(row.positive_input for row in rows),
            neutral_output=mean(row.negative_output for row in rows),
            concept_output=mean(row.positive_output for row in rows),
            test_input=test_input,
            prefix=len(chat.prefix),
            suffix=len(chat.turn_end) + len(chat.generation_prompt),
            source=source,
        )

    def row(self, max_response_tokens: int) -> EncodedQuadruple:
        """A row of average length, as a method is given it."""
        neutral, concept = self._prompt(self.neutral_input, 1), self._prompt(self.concept_input, 2)
        # Ids of their own: what is the same text is computed once.
        said, shown = (
            (token,) * max(1, min(round(length), max_response_tokens))
            for token, length in ((3, self.neutral_output), (4, self.concept_output))
        )
        return EncodedQuadruple(
            elicit=Interchange(Turn(neutral, shown), Turn(concept, shown)),
            suppress=Interchange(Turn(concept, said), Turn(neutral, said)),
        )

    @property
    def test_prompt(self) -> int:
        """Tokens of a test prompt, template included."""
        return self.prefix + round(self.test_input) + self.suffix

    def _prompt(self, text: float, token: int) -> Prompt:
        ids = (0,) * self.prefix + (token,) * (round(text) + self.suffix)
        return Prompt(ids, self.prefix, len(ids) - 1)


@dataclass(frozen=True)
class TrainingWork:
    """Training one method on one concept.

    Attributes:
        steps: updates of the parameters.
        tokens: of the edited runs over all epochs: prompt and response, both directions.
        cache_flops: what the engine computes once.
        step_flops: of all steps.
    """

    steps: int = 0
    tokens: int = 0
    cache_flops: float = 0.0
    step_flops: float = 0.0


def training_work(
    shape: ModelShape, config: TrainingConfig, layer: int, rows: int, lengths: Lengths
) -> TrainingWork:
    """What the replay engine does (`training/replay_engine.py`), or a method that is fitted.

    Once per row: the base's states up to the site, the whole source run, and whole untouched runs
    of reference likelihoods. In each step: forward and backward through the blocks above the site,
    without the template prefix where it is shared, and through the head at response positions. The
    teacher's logits are projected from its states again in each step, as the engine does where they
    do not fit into memory.

    Args:
        layer: of methods that act at one.
        rows: quadruples of the concept.
    """
    method = find_method(config.method)
    row = lengths.row(config.max_response_tokens)
    if isinstance(method, DiffMean):
        seen = [row.elicit.base, row.suppress.source]
        flops = sum(shape.blocks_flops(len(turn.ids), layer + 1) for turn in seen)
        return TrainingWork(cache_flops=rows * flops)
    if not isinstance(method, TrainedMethod):
        return TrainingWork()
    terms = method.terms([row], config.reduction, np.random.default_rng(0))
    runs = [run for term in terms for run in term.runs]
    below = site_of(method, config, layer) + 1
    above = shape.layers - below
    teacher = method.objective.has_teacher
    once = 0.0
    for base, source in dict.fromkeys((run.base, run.source) for run in runs):
        once += shape.blocks_flops(len(base.ids), below)
        if source is not None:
            once += shape.blocks_flops(len(source.ids), shape.layers)
    for turn in dict.fromkeys(turn for term in terms for turn in term.references):
        once += shape.blocks_flops(len(turn.ids), shape.layers)
        once += shape.head_flops(len(turn.response))
    each = 0.0
    for run in runs:
        replayed = len(run.base.ids) - (lengths.prefix if method.shares_prefix else 0)
        each += shape.blocks_flops(replayed, above) + shape.blocks_backward_flops(replayed, above)
        each += (3 if teacher else 2) * shape.head_flops(len(run.base.response))
    return TrainingWork(
        steps=config.epochs * -(-rows // config.batch_size),
        tokens=config.epochs * rows * sum(len(run.base.ids) for run in runs),
        cache_flops=rows * once,
        step_flops=config.epochs * rows * each,
    )


def site_of(method: Method, config: TrainingConfig, layer: int) -> int:
    """The lowest block whose output is edited; LoRA starts from the block below its first."""
    if not config.layers:
        return layer
    return min(config.layers) - isinstance(method, LoRA)


def has_direction(name: str) -> bool:
    """Whether a method leaves a direction, which also detects."""
    return isinstance(find_method(name), DirectionMethod | DiffMean)


def latent_flops(
    shape: ModelShape, config: TrainingConfig, layer: int, rows: int, lengths: Lengths
) -> float:
    """Measuring factors and detection, for a method with a direction; 0 for others.

    Factors: both prompts of every training row, up to the layer. Detection: as many texts with the
    concept and as many without it, prompt and response.
    """
    method = find_method(config.method)
    if not has_direction(config.method):
        return 0.0
    row = lengths.row(config.max_response_tokens)
    factors = 0.0
    if isinstance(method, DirectionMethod):
        prompts = (row.elicit.base.prompt, row.elicit.source.prompt)
        factors = sum(shape.blocks_flops(len(prompt.ids), layer + 1) for prompt in prompts)
    texts = (row.elicit.base, row.suppress.source)
    return rows * (factors + sum(shape.blocks_flops(len(t.ids), layer + 1) for t in texts))


@dataclass(frozen=True)
class DecodingWork:
    """Answers of one length to prompts of one length, in batches.

    Attributes:
        answers: how many.
        tokens: new ones.
        prefill_flops: of the prompts.
        steps: decoding steps, of all batches.
        step_flops, step_numbers: of a full batch: arithmetic; weights, keys and values read.
    """

    answers: int = 0
    tokens: int = 0
    prefill_flops: float = 0.0
    steps: int = 0
    step_flops: float = 0.0
    step_numbers: float = 0.0


def decoding_work(
    shape: ModelShape, answers: int, prompt: int, new_tokens: int, batch_tokens: int
) -> DecodingWork:
    """What `generate_responses` does: every answer of full length, batches of `batch_tokens`.

    A step reads all weights once, and the keys and values of a cache that is half full of answers.
    """
    if answers == 0:
        return DecodingWork()
    batch = min(answers, max(1, batch_tokens // (prompt + new_tokens)))
    context = prompt + new_tokens / 2
    attention = 4 * shape.layers * context * shape.query_width
    token = 2 * (shape.layers * shape.block_matrices + shape.head) + attention
    return DecodingWork(
        answers=answers,
        tokens=answers * new_tokens,
        prefill_flops=answers * (shape.blocks_flops(prompt, shape.layers) + shape.head_flops(1)),
        steps=-(-answers // batch) * new_tokens,
        step_flops=batch * token,
        step_numbers=shape.read_per_step + batch * context * shape.layers * 2 * shape.kv_width,
    )
