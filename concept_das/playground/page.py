"""The page itself, in Gradio."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concept_das.errors import InputError
from concept_das.playground import drawing
from concept_das.playground.answers import Playground
from concept_das.playground.reading import Place, Reading, places_of, read
from concept_das.playground.script import script_of
from concept_das.playground.settings import LARGEST, Setting, Strength
from concept_das.steering.vector import SteeringVector
from concept_das.words import Direction

if TYPE_CHECKING:
    import gradio

_WORDS: dict[Direction, str] = {"elicit": "steer towards it", "suppress": "steer away from it"}

_POSITIONS = [
    ("the prompt and the answer", "all"),
    ("the prompt only", "prompt"),
    ("the answer only", "generated"),
]

START = "Tell me how to start a conversation with someone I do not know at a party."

_EXAMPLES = [
    "Introduce yourself.",
    "How was your weekend?",
    "What should I do today?",
    "Write a short poem about rain.",
]

_HINT = '<span class="cd-faint">Press Answer.</span>'

_STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto; }
#title h1 { margin-bottom: 0; }
.cd-part .html-container { padding: 0 !important; }
.cd-part .html-container, .cd-part .prose { height: 100%; }
.block.cd-part:not(:has(.prose > *)) { display: none; }
@media (max-width: 640px) { .cd-answers { flex-direction: column; } }
"""

# The clipboard is not there where a page does not come from this machine or by https.
_COPY = """
async (text) => {
  const button = document.getElementById(%r);
  const words = (button.dataset.words ??= button.textContent);
  const full = %s;
  try { await navigator.clipboard.writeText(full); }
  catch {
    const area = document.createElement("textarea");
    area.value = full; document.body.append(area); area.select();
    document.execCommand("copy"); area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = words; }, 1500);
}
"""
_ADDRESS = "location.origin + location.pathname + text"
_SHOW_ADDRESS = "(query) => { if (query) history.replaceState(null, '', query); }"


def build(playground: Playground) -> "gradio.Blocks":
    """The page of a playground; `launch` serves it."""
    return _Page(playground).blocks


def launch_options() -> dict[str, Any]:
    """Arguments of `launch` for the page: its style, and nothing that is loaded from elsewhere."""
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": _STYLE + drawing.STYLE, "footer_links": [], "ssr_mode": False}


class _Page:
    """The page's parts, and the functions between them."""

    def __init__(self, playground: Playground) -> None:
        import gradio as gr

        self.playground = playground
        self.places = {_place_name(playground, place): place for place in places_of(playground)}
        self.start = Setting(
            prompt=START,
            strengths={
                name: Strength(vector.directions[0], 0.0 if i else 1.0)
                for i, (name, vector) in enumerate(playground.vectors.items())
            },
        )
        with gr.Blocks(
            title="concept-das playground", analytics_enabled=False, fill_width=True
        ) as self.blocks:
            self.measured = gr.State()
            self.asked = gr.State(False)
            self._draw_controls()
            self._draw_answers()
            self._draw_more()
            self._connect()

    def _draw_controls(self) -> None:
        import gradio as gr

        vectors = self.playground.vectors
        gr.Markdown(
            f"# Steering playground\nThe same prompt, answered by {self.playground.loaded.name} "
            f"without and with {'a vector' if len(vectors) == 1 else 'vectors'} in the model.",
            elem_id="title",
        )
        with gr.Row():
            self.prompt = gr.Textbox(
                self.start.prompt, label="Prompt", lines=1, max_lines=6, scale=6, min_width=280
            )
            with gr.Column(scale=1, min_width=130):
                self.answer = gr.Button("Answer", variant="primary", elem_id="answer")
                self.halt = gr.Button("Stop", elem_id="stop")
        gr.Examples(_EXAMPLES, self.prompt, label="Other prompts to try")
        self.strengths: list[Any] = []
        for name, vector in vectors.items():
            way = self.start.strengths[name]
            choices = [(_WORDS[direction], direction) for direction in vector.directions]
            with gr.Row():
                self.strengths += [
                    gr.Radio(
                        choices,
                        value=way.direction,
                        label=f"Concept: {vector.concept or name}",
                        min_width=260,
                    ),
                    gr.Slider(
                        0,
                        LARGEST["multiplier"],
                        value=way.multiplier,
                        step=0.1,
                        label="Multiplier (0: off, 1: as measured)",
                        elem_id=f"multiplier-{len(self.strengths) // 2}",
                        min_width=260,
                    ),
                ]

    def _draw_answers(self) -> None:
        import gradio as gr

        self.error = _part("error")
        prompt, unsteered, steered, legend = self._paint(None, None)
        self.read_prompt = _part("read-prompt", prompt)
        with gr.Row(equal_height=True, elem_classes="cd-answers"):
            self.unsteered = _part("unsteered", unsteered)
            self.steered = _part("steered", steered)
        self.legend = _part("legend", legend)
        self.bars = _part("bars")

    def _draw_more(self) -> None:
        import gradio as gr

        with gr.Row():
            self.copy_link = gr.Button("Copy link to this setting", elem_id="copy-link")
            self.copy_code = gr.Button("Copy Python code", elem_id="copy-code")
        with gr.Accordion("More settings", open=False):
            with gr.Row():
                self.positions = gr.Dropdown(
                    _POSITIONS,
                    value=self.start.positions,
                    allow_custom_value=True,
                    label="Steered tokens",
                    info="or the first and last of the prompt, such as p2+s2",
                )
                self.place = gr.Dropdown(
                    [*self.places],
                    label="Colour by",
                    info="the block at which coordinates are read",
                    visible=bool(self.places),
                )
            with gr.Row():
                self.length = gr.Slider(
                    1,
                    LARGEST["max_new_tokens"],
                    value=self.start.max_new_tokens,
                    step=1,
                    label="Longest answer, in tokens",
                )
                self.temperature = gr.Slider(
                    0,
                    LARGEST["temperature"],
                    value=self.start.temperature,
                    step=0.1,
                    label="Temperature (0: always the likeliest token)",
                )
                self.seed = gr.Number(
                    self.start.seed, precision=0, label="Seed (when the temperature is not 0)"
                )
        with gr.Accordion("Python code of these answers", open=False):
            self.code = gr.Code(language="python", show_label=False, elem_id="code")
        self.query = gr.Textbox(visible=False)

    def _connect(self) -> None:
        import gradio as gr

        def fill(request: gr.Request) -> list[Any]:
            return self._fill(dict(request.query_params))

        self.controls = [
            *(self.prompt, self.positions, self.length, self.temperature, self.seed),
            *self.strengths,
        ]
        self._painted = [self.read_prompt, self.unsteered, self.steered, self.legend]
        shown = [*self._painted, self.error, self.bars, self.measured, self.query, self.code]
        shown.append(self.asked)
        # One model answers one prompt at a time; of what is asked meanwhile the last counts.
        asked: dict[str, Any] = {
            "outputs": shown,
            "show_progress": "hidden",
            "trigger_mode": "always_last",
            "concurrency_limit": 1,
            "concurrency_id": "answers",
            "api_visibility": "private",
        }
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [
                self.answer.click,
                self.prompt.submit,
                self.positions.input,
                *(radio.input for radio in self.strengths[::2]),
                *(slider.release for slider in self.strengths[1::2]),
            ],
            self._answer,
            inputs=[*self.controls, self.place],
            **asked,
        )
        self.blocks.load(
            fill, outputs=[*self.controls, self.error, self.asked, self.query], **quick
        ).then(self._answer_link, inputs=[self.asked, *self.controls, self.place], **asked)
        self.halt.click(self.playground.stop, queue=False, **quick)
        self.place.change(self._paint, [self.measured, self.place], self._painted, **quick)
        self.query.change(None, self.query, js=_SHOW_ADDRESS)
        self.copy_link.click(None, self.query, js=_COPY % ("copy-link", _ADDRESS))
        self.copy_code.click(None, self.code, js=_COPY % ("copy-code", "text"))

    def _setting(self, values: Sequence[Any]) -> Setting:
        """The setting that the controls say."""
        prompt, positions, length, temperature, seed, *strengths = values
        # A control whose number was deleted has None.
        ways = map(Strength, strengths[::2], (float(number or 0) for number in strengths[1::2]))
        return Setting(
            prompt or "",
            dict(zip(self.playground.vectors, ways, strict=True)),
            positions or "",
            int(length or 0),
            float(temperature or 0),
            int(seed or 0),
        )

    def _values(self, setting: Setting) -> list[Any]:
        """The inverse of `_setting`."""
        ways = setting.strengths.values()
        return [
            *(setting.prompt, setting.positions, setting.max_new_tokens, setting.temperature),
            setting.seed,
            *(value for way in ways for value in (way.direction, way.multiplier)),
        ]

    def _fill(self, query: Mapping[str, str]) -> list[Any]:
        """The controls as a link has them, an error, whether to answer, and the link itself."""
        try:
            setting, problem = self.start.of_query(query), ""
        except InputError as error:
            setting, problem = self.start, str(error)
        asked = "prompt" in query and not problem
        return [*self._values(setting), drawing.error(problem), asked, setting.query]

    def _answer_link(self, asked: bool, *values: Any) -> Iterator[dict[Any, Any]]:
        if asked:
            yield from self._answer(*values)
        else:
            yield {self.asked: False}

    def _answer(self, *values: Any) -> Iterator[dict[Any, Any]]:
        """Both answers as they grow, and then what is measured of them."""
        try:
            setting = self._setting(values[:-1])
            for pair in self.playground.answers(setting):
                texts = [self.playground.text(ids) for ids in (pair.unsteered, pair.steered)]
                drawn = self._cards(["", *map(drawing.growing, texts)])
                growing = dict(zip(self._painted[1:3], drawn[1:], strict=True))
                if not pair.unsteered and not pair.steered:
                    empty = dict.fromkeys(
                        (self.read_prompt, self.legend, self.bars, self.error), ""
                    )
                    code = script_of(self.playground, setting)
                    growing |= {**empty, self.query: setting.query, self.code: code}
                yield growing
            reading = read(self.playground, setting, pair)
        except InputError as error:
            yield {self.error: drawing.error(str(error))}
            return
        painted = zip(self._painted, self._paint(reading, values[-1]), strict=True)
        bars = drawing.card("What steering changes, token by token", drawing.bars(reading.changes))
        yield {**dict(painted), self.bars: bars, self.measured: reading}

    def _cards(self, texts: Sequence[str]) -> list[str]:
        return [
            drawing.card(title, text)
            for title, text in zip(("Prompt", "Unsteered", "Steered"), texts, strict=True)
        ]

    def _paint(self, reading: Reading | None, name: str | None) -> list[str]:
        """The prompt and both answers in the colours of a place, and what the colours mean."""
        if reading is None:  # nothing is answered yet
            return [*self._cards(["", _HINT, _HINT]), ""]
        place = self.places.get(name or "")
        texts = [reading.prompt, reading.unsteered, reading.steered]
        scale = (0.0, 1.0)
        if place is not None:
            vector = self.playground.vectors[place[0]]
            assert isinstance(vector, SteeringVector)
            scale = drawing.scale_of(vector, texts, place)
        drawn = [drawing.coloured(text, place, scale) for text in texts]
        return [*self._cards(drawn), drawing.legend(self.playground, place, scale)]


def _part(name: str, value: str = "") -> "gradio.HTML":
    """A part of the page that is drawn here, and takes no room while it is empty."""
    import gradio as gr

    return gr.HTML(value, elem_id=name, elem_classes="cd-part")


def _place_name(playground: Playground, place: Place) -> str:
    name, layer = place
    where = "all blocks" if layer is None else f"block {layer}"
    only = playground.vectors[name].layers
    if layer is None and len(only) == 1:
        where = f"block {only[0]}"
    return f"{name}, {where}"
