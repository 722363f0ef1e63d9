"""`concept-das inspect`."""

import json

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.words import Direction


def inspect_row(
    loading: ModelOptions,
    chat: ChatOptions,
    data: str | None = None,
    vector: str | None = None,
    row: int = 0,
    direction: Direction = "elicit",
    max_response_tokens: int = 128,
) -> None:
    """Print a row's tokens: prefix, source token, intervened and scored positions.

    With a vector, its model and chat format are used; without data, its description is printed.

    Args:
        data: file (.parquet, .csv, .tsv, .jsonl, .json, .feather, also .gz), folder or pattern of
            files, or hub id of a data set.
        vector: folder of a saved vector, or another name as steer takes.
        row: which row, 0-based.
        direction: elicit or suppress.
        max_response_tokens: where training would cut responses, in tokens.
    """
    from concept_das import load_vector, read_quadruples
    from concept_das.data.inspection import format_marks

    saved = None if vector is None else load_vector(vector)
    if data is None:
        if saved is None:
            raise InputError("there is nothing to look at; give data, a vector, or both")
        print(json.dumps(saved.describe(), indent=2, ensure_ascii=False))
        return
    rows = read_quadruples(data)
    if not 0 <= row < len(rows):
        raise InputError(f"row {row} is out of range: {data} has rows 0 to {len(rows) - 1}")
    loaded = loading.load() if saved is None else loading.load_for(saved)
    chat_format = (chat if saved is None else ChatOptions.of_vector(saved)).of(loaded)
    encoded = loaded.encode(chat_format, [rows[row]], max_response_tokens)[0]
    pair = getattr(encoded, direction)
    print(f"base ({direction}): the intervened run\n{format_marks(chat_format, pair.base)}\n")
    print("source: the untouched run; its latent is read at the token marked source")
    print(format_marks(chat_format, pair.source))
