"""AxBench's own questions, read when a run begins from a file that the user has.

This project holds no copy of them. They are three Python strings of one name each in
`axbench/evaluators/prompt_templates.py` of stanfordnlp/axbench, and in
`cdas/chat_templates/eval_templates.py` of the CDAS paper's release. The file is parsed and never
run.
"""

import ast
import hashlib
from collections.abc import Mapping
from pathlib import Path
from string import Formatter

from benchmarks.judges.ratings import Item, Question
from concept_das.errors import InputError


def _string(name: str, *fields: str) -> tuple[str, frozenset[str]]:
    return f"UNIDIRECTIONAL_PAIRWISE_EVALUATION_{name}_TEMPLATE", frozenset(fields)


# By question: the name of the string, and the fields that it is filled with.
_STRINGS: dict[Question, tuple[str, frozenset[str]]] = {
    "concept": _string("CONCEPT_RELEVANCE", "concept", "sentence"),
    "instruct": _string("INSTRUCTION_RELEVANCE", "instruction", "sentence"),
    "fluency": _string("FLUENCY", "sentence"),
}

_IN_CHECKOUTS = ("axbench/evaluators/prompt_templates.py", "cdas/chat_templates/eval_templates.py")

Questions = Mapping[Question, str]
"""The text of each question, with fields in braces."""


def read_questions(source: Path) -> Questions:
    """The three questions.

    Args:
        source: a checkout of AxBench or of the release, or the file itself.

    Raises:
        InputError: if there is no such file, it is not Python, or it does not hold the questions as
            they are in AxBench's current version.
    """
    file = source
    if source.is_dir():
        found = [source / path for path in _IN_CHECKOUTS if (source / path).is_file()]
        if not found:
            raise InputError(f"{source} has none of {', '.join(_IN_CHECKOUTS)}; name the file")
        file = found[0]
    try:
        module = ast.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"there is no file {file} with the judge's questions") from error
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{file} cannot be read as Python ({error}); name another file") from error
    strings = _strings(module)
    return {question: _checked(file, strings, *told) for question, told in _STRINGS.items()}


def _strings(module: ast.Module) -> dict[str, str]:
    """The strings that a module gives names to; the last one of a name."""
    return {
        target.id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _checked(file: Path, strings: Mapping[str, str], name: str, fields: frozenset[str]) -> str:
    if name not in strings:
        raise InputError(f"{file} has no string {name}; name AxBench's prompt_templates.py")
    text = strings[name]
    try:
        found = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise InputError(f"{file}, {name} is not a template ({error})") from error
    if found != fields:
        raise InputError(
            f"{file}, {name} is filled with {', '.join(sorted(found)) or 'nothing'} and not with "
            f"{', '.join(sorted(fields))}"
        )
    # An earlier version of AxBench asked for 0 or 1.
    if "2" not in text:
        raise InputError(
            f"{file}, {name} does not ask for a rating up to 2; take AxBench's newest version"
        )
    return text


def ask(questions: Questions, question: Question, item: Item) -> str:
    """One question about one response, filled in as AxBench does."""
    return questions[question].format(
        concept=item.concept, instruction=item.instruction, sentence=item.response
    )


def digest(questions: Questions) -> str:
    """A hash that tells wordings apart."""
    texts = "\0".join(questions[question] for question in _STRINGS)
    return hashlib.sha256(texts.encode()).hexdigest()[:16]
