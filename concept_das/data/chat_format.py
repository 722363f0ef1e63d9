r"""From a conversation to token ids whose parts are known by construction.

The chat template is rendered once, around a marker in place of the user's text, and cut there:

    <bos><start_of_turn>user\n | user text | <end_of_turn>\n | <start_of_turn>model\n | response
    -------- prefix ---------                                   - generation prompt --

Each piece is tokenised on its own and the ids are concatenated. So the prefix length, the end of
the prompt and the source position are sums of lengths; nothing is ever searched for in a user's
text, and a prompt that holds the template's own words is plain text like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from concept_das.errors import InputError

_MARKER = "USERTEXT"


@dataclass(frozen=True)
class ChatFormat:
    """A model's chat template, cut into token ids around the user's text.

    Attributes:
        prefix: ids before the user's text: begin-of-text, system prompt, user header. The template
            prefix that is never intervened on.
        turn_end: ids between the user's text and the generation prompt.
        generation_prompt: ids that open the model's turn.
        source_token: index of the token of the generation prompt at which the source latent is
            read; negative counts from its end.
        strips_text: true if the template trims white space around the user's text.
        system: the system prompt, if any.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    prefix: tuple[int, ...]
    turn_end: tuple[int, ...]
    generation_prompt: tuple[int, ...]
    source_token: int = -1
    strips_text: bool = False
    system: str | None = None

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        source_token: int = -1,
        chat_template: str | None = None,
        **template_options: Any,
    ) -> "ChatFormat":
        """Cut the tokenizer's chat template.

        Args:
            system: system prompt; the template's default if None.
            source_token: index within the generation prompt, -1 its last token (the paper reads the
                source there, and found which token by grid search).
            chat_template: a Jinja template to use instead of the tokenizer's own.
            template_options: passed to the template (`enable_thinking=False`, for instance).

        Raises:
            InputError: if there is no template, it has no generation prompt, it rejects the system
                prompt, or the source token is not within the generation prompt.
        """
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        template = chat_template or tokenizer.chat_template
        if template is None:
            raise InputError(
                f"the tokenizer of {name} has no chat template; use an instruction-tuned model or "
                "pass chat_template"
            )

        def render(text: str, add_generation_prompt: bool) -> str:
            messages = [{"role": "user", "content": text}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            try:
                rendered = tokenizer.apply_chat_template(
                    messages,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **template_options,
                )
            except Exception as error:  # templates raise what they like
                hint = "; it may not accept a system prompt" if system is not None else ""
                raise InputError(
                    f"the chat template of {name} rejects a conversation{hint} ({error})"
                ) from error
            assert isinstance(rendered, str)
            return rendered

        closed, opened = render(_MARKER, False), render(_MARKER, True)
        if opened == closed or not opened.startswith(closed):
            raise InputError(
                f"the chat template of {name} has no generation prompt; pass chat_template with an "
                "add_generation_prompt part"
            )
        if closed.count(_MARKER) != 1:
            raise InputError(f"the chat template of {name} does not show the user's text once")
        before, after = closed.split(_MARKER)
        generation_prompt = _ids(tokenizer, opened[len(closed) :])
        if not -len(generation_prompt) <= source_token < len(generation_prompt):
            raise InputError(
                f"source_token {source_token} is outside the generation prompt of {name}, which "
                f"has {len(generation_prompt)} tokens"
            )
        return cls(
            tokenizer=tokenizer,
            prefix=_ids(tokenizer, before),
            turn_end=_ids(tokenizer, after),
            generation_prompt=generation_prompt,
            source_token=source_token,
            strips_text=f" {_MARKER}" not in render(f" {_MARKER} ", False),
            system=system,
        )

    def prompt(self, text: str) -> "Prompt":
        """Token ids of one user turn, up to where the model begins to answer.

        Raises:
            InputError: if the text is empty.
        """
        text = text.strip() if self.strips_text else text
        if not text.strip():
            raise InputError("an instruction is empty; remove the row")
        ids = (*self.prefix, *self.text_ids(text), *self.turn_end, *self.generation_prompt)
        start = len(ids) - len(self.generation_prompt)
        return Prompt(
            ids=ids,
            prefix_length=len(self.prefix),
            source_position=start + self.source_token % len(self.generation_prompt),
        )

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of plain text: no begin-of-text, and no special tokens even if it spells them."""
        ids = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        ).input_ids
        return tuple(ids)


def _ids(tokenizer: PreTrainedTokenizerBase, template_text: str) -> tuple[int, ...]:
    """Ids of a piece of the template, special tokens recognised, none added."""
    encoded = tokenizer(template_text, add_special_tokens=False, return_attention_mask=False)
    return tuple(encoded.input_ids)


@dataclass(frozen=True)
class Prompt:
    """Ids of a prompt that ends where the model's answer begins.

    Attributes:
        ids: prefix, user text, turn end, generation prompt.
        prefix_length: number of template tokens before the user's text.
        source_position: index of the token the source latent is read at.
    """

    ids: tuple[int, ...]
    prefix_length: int
    source_position: int

    def tensors(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The prompt as a batch of one, for `model.generate(**prompt.tensors())`."""
        input_ids = torch.tensor([self.ids], device=device)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def with_response(self, response: Sequence[int]) -> "Turn":
        """The prompt followed by response ids."""
        return Turn(self, tuple(response))


@dataclass(frozen=True)
class Turn:
    """A prompt and a response, as one row of a batch."""

    prompt: Prompt
    response: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids."""
        return self.prompt.ids + self.response
