"""`concept-das inspect`."""

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.words import Direction


def inspect_row(
    data: str,
    loading: ModelOptions,
    chat: ChatOptions,
    row: int = 0,
    direction: Direction = "elicit",
    max_response_tokens: int = 128,
) -> None:
    """Print a row's tokens: prefix, source token, intervened and scored positions.

    Args:
        data: file (.parquet, .csv, .tsv, .jsonl, .json, .feather, also .gz), folder or pattern of
            files, or hub id of a data set.
        row: which row, 0-based.
        direction: elicit or suppress.
        max_response_tokens: where training would cut responses, in tokens.
    """
    from concept_das import read_quadruples
    from concept_das.data.inspection import format_marks

    rows = read_quadruples(data)
    if not 0 <= row < len(rows):
        raise InputError(f"row {row} is out of range: {data} has rows 0 to {len(rows) - 1}")
    loaded = loading.load()
    chat_format = chat.of(loaded)
    encoded = loaded.encode(chat_format, [rows[row]], max_response_tokens)[0]
    pair = getattr(encoded, direction)
    print(f"base ({direction}): the intervened run\n{format_marks(chat_format, pair.base)}\n")
    print("source: the untouched run; its latent is read at the token marked source")
    print(format_marks(chat_format, pair.source))
