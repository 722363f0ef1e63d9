"""A chat model on this machine that is asked as an endpoint is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.judges.answer_cache import Answer
from benchmarks.judges.client import AskAgain
from benchmarks.judges.ratings import Kind
from concept_das.data.chat_format import ChatFormat
from concept_das.models.loading import LoadedModel
from concept_das.steering.generation import generate_responses


@dataclass(frozen=True)
class LocalModel:
    """A chat model, each question as one user message; it decodes greedily.

    Attributes:
        loaded: unsteered; not inside a `steer` block.
        max_tokens: length of an answer.
    """

    loaded: LoadedModel
    max_tokens: int = 300

    kind: Kind = field(default="local", init=False)

    @property
    def name(self) -> str:
        """For tables."""
        return f"local {self.loaded.name}"

    def answers(self, texts: Sequence[str], *, again: AskAgain | None = None) -> list[Answer]:
        """The answer to every text, in order; as `Endpoint.answers`, without a cache."""
        chat = ChatFormat.of(self.loaded.tokenizer)
        found: dict[str, Answer] = {}
        todo = {text: text for text in texts}
        asked = 0
        while todo:
            said = generate_responses(
                self.loaded.model,
                chat,
                [chat.prompt(text) for text in todo.values()],
                max_new_tokens=self.max_tokens,
                progress="judge",
            )
            asked += 1
            following = {}
            for first, text in zip(todo, said, strict=True):
                found[first] = Answer(text, True, 0, 0)
                next_text = again(first, asked, found[first]) if again else None
                if next_text is not None:
                    following[first] = next_text
            todo = following
        return [found[text] for text in texts]
