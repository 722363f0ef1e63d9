"""The rows the speed benchmark measures on."""

from collections.abc import Sequence
from pathlib import Path

from concept_das.data.axbench_file import read_axbench
from concept_das.data.chat_format import ChatFormat
from concept_das.data.concept_prompts import TOPIC_PROMPT, concept_input
from concept_das.data.encoding import EncodedQuadruple, encode_quadruples
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import read_quadruples


def refusal_rows(path: Path, chat: ChatFormat) -> list[EncodedQuadruple]:
    """The refusal pairs of the authors' release: responses of 1 to 5 tokens."""
    return encode_quadruples(read_quadruples(path), chat, max_response_tokens=128)


def axbench_rows(path: Path, chat: ChatFormat, concept_id: int = 3) -> list[EncodedQuadruple]:
    """An AxBench concept, responses up to 128 tokens.

    What the neutral response says does not matter for speed, so the next row's output stands in.
    """
    source = read_axbench(path, concept_id)
    shifted: Sequence[str] = [*source.outputs[1:], source.outputs[0]]
    rows = [
        Quadruple(instruction, neutral, concept_input(instruction, source.concept, TOPIC_PROMPT), y)
        for instruction, neutral, y in zip(
            source.instructions, shifted, source.outputs, strict=True
        )
    ]
    return encode_quadruples(rows, chat, max_response_tokens=128)
