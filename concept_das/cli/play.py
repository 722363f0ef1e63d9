"""`concept-das play`."""

from dataclasses import fields
from importlib.util import find_spec

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError


def play(
    loading: ModelOptions,
    vector: list[str] = ["pirate"],  # noqa: B006 (shown in the help)
    host: str = "127.0.0.1",
    port: int | None = None,
    allow_other_weights: bool = False,
) -> None:
    """Try vectors in the browser: a prompt unsteered and steered, side by side.

    Args:
        vector: folders of saved vectors of one model, or other names as steer takes.
        host: address to listen at; 0.0.0.0 lets other machines in.
        port: to listen at; the first free one from 7860 on if not given.
        allow_other_weights: steer another fine-tune of the vector's model too, with a warning.
    """
    if find_spec("gradio") is None:
        raise InputError("the playground needs gradio; run `pip install concept-das[play]`")
    if len(set(vector)) < len(vector):
        raise InputError("a vector is named twice; name each once")

    from concept_das import load_vector
    from concept_das.playground.answers import Playground
    from concept_das.playground.page import build, launch_options

    saved = load_vector(vector[0])
    loaded = loading.load(default=saved.model.name)
    vectors = {
        name: load_vector(name, loaded, allow_other_weights=allow_other_weights) for name in vector
    }
    chat = ChatOptions.of_vector(saved).of(loaded)
    for each in vectors.values():
        each.check_chat(chat)
    given = {field.name: getattr(loading, field.name) for field in fields(loading)}
    own = {n: v for n, v in given.items() if n != "model" and v != getattr(ModelOptions, n)}
    page = build(Playground(loaded, chat, vectors, own, allow_other_weights))
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            **launch_options(),
        )
    except OSError as error:
        where = "any port from 7860 on" if port is None else f"port {port}"
        raise InputError(f"cannot listen at {host}, {where}; give another --port") from error
    print(f"The playground is at {address} (end it with Ctrl-C).", flush=True)
    page.block_thread()
