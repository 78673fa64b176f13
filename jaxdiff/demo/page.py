"""The page: its controls, and what they call in `drawing`."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from jaxdiff.demo import drawing
from jaxdiff.demo.drawing import Settings, Wish
from jaxdiff.demo.pictures import image_of, mask_of, sheet
from jaxdiff.errors import InputError, first_line, require
from jaxdiff.runs.run import Run
from jaxdiff.serialization import option_name

NUMS = (1, 4, 9, 16)
"""Numbers of pictures; each is compiled once."""
COLUMNS = 7
"""Number of pictures of a blend."""
ANY = "each in turn"
"""Choice of all classes."""
LARGEST_FILE = "20mb"
"""Largest size of an uploaded file."""
STYLE = """
.gradio-container img { image-rendering: pixelated; }
footer { display: none !important; }
"""


def build(run: Run, name: str) -> Any:
    """Returns the page of a trained model, a `gradio.Blocks` with a queue.

    Drawings wait for each other: one visitor draws at a time.

    Args:
        run: trained model.
        name: name of the run, for the title.

    Raises:
        InputError: Gradio is not installed.
    """
    gr = require("gradio")
    with gr.Blocks(
        title=f"jaxdiff: {name}", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        gr.Markdown(f"# {name}\n{_about(run)}")
        settings = _settings(gr, run)
        with gr.Tab("Draw"):
            _drawing(gr, run, settings)
        with gr.Tab("Blend"):
            _blending(gr, run, settings)
        with gr.Tab("Change"):
            _changing(gr, run, settings)
        with gr.Tab("Repaint"):
            _repainting(gr, run, settings)
        with gr.Tab("Add noise"):
            _noising(gr, run, settings)
    page.queue(default_concurrency_limit=1, max_size=32)
    return page


def launch(run: Run, name: str, host: str, port: int) -> Any:
    """Starts the server of a page; it runs until `close` is called.

    Raises:
        InputError: Gradio is not installed, or the port is taken.
    """
    gr = require("gradio")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise InputError(
            f"port must be free on {host}, got {port} ({first_line(error)}). Choose "
            "another --port."
        ) from error
    page = build(run, name)
    page.launch(
        server_name=host, server_port=port, quiet=True, share=False,
        prevent_thread_lock=True, show_error=True, max_file_size=LARGEST_FILE,
        enable_monitoring=False, ssr_mode=False, css=STYLE,
        theme=gr.themes.Base(font=["system-ui"], font_mono=["monospace"]),
    )  # fmt: skip
    return page


def _about(run: Run) -> str:
    """Returns a line on the model."""
    height, width = run.image_size
    given = "pictures"
    if run.takes_prompts:
        given = "pictures of prompts"
    elif run.info.num_classes:
        given = f"pictures of {run.info.num_classes} classes"
    return f"Draws {given}, {height} x {width} pixels; {run.step:,} steps of training."


def _settings(gr: Any, run: Run) -> list[Any]:
    """Returns the controls of sampler, steps, guidance and seed."""
    sampling = run.experiment.sampling
    own = option_name(type(sampling.sampler))
    names = [own, *(name for name in drawing.SAMPLERS if name != own)]
    steps = len(sampling.sampler.grid(run.schedule).alpha) - 1
    with gr.Row():
        sampler = gr.Dropdown(names, value=own, label="Sampler")
        number = gr.Slider(
            1, run.schedule.num_steps, value=steps, step=1, label="Steps"
        )
        guidance = gr.Slider(
            0, 15, value=sampling.guidance, step=0.1, label="Guidance",
            visible=_takes_guidance(run),
        )  # fmt: skip
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
    return [sampler, number, guidance, seed]


def _takes_guidance(run: Run) -> bool:
    """Returns True if guidance works for a run's network."""
    sampling = replace(run.experiment.sampling, guidance=2.0)
    try:
        replace(run.experiment, sampling=sampling).check_guidance(run.info)
    except InputError:
        return False
    return True


def _choice(gr: Any, run: Run, label: str = "") -> Any:
    """Returns the control of a prompt or of a class, hidden if the model has none."""
    if run.takes_prompts:
        return gr.Textbox(label=label or "Prompt", placeholder="a cat", max_lines=3)
    classes = run.info.num_classes or 0
    names = run.info.class_names or tuple(map(str, range(classes)))
    pairs = [(name, place) for place, name in enumerate(names[:classes])]
    first = [] if label or not classes else [(ANY, -1)]
    return gr.Dropdown(
        [*first, *pairs] or [("any", -1)], value=-1 if not label else None,
        label=label or "Class", visible=bool(classes),
    )  # fmt: skip


def _drawing(gr: Any, run: Run, settings: list[Any]) -> None:
    with gr.Row():
        what = _choice(gr, run)
        negative = gr.Textbox(label="Negative prompt", visible=run.takes_prompts)
        num = gr.Dropdown(list(NUMS), value=NUMS[0], label="Number of pictures")
    button = gr.Button("Draw", variant="primary")
    result = _result(gr)

    def act(chosen: Any, negative: str, num: int, *given: Any) -> Iterator[Any]:
        wish = drawing.wish_for(run, _chosen(run, chosen), num, negative or "")
        yield from _sheets(run, given, wish)

    _connect(gr, button, act, [what, negative, num, *settings], result)


def _blending(gr: Any, run: Run, settings: list[Any]) -> None:
    names = bool(run.takes_prompts or run.info.num_classes)
    with gr.Row(visible=names):
        first, second = (_choice(gr, run, label) for label in ("From", "To"))
    button = gr.Button("Blend", variant="primary", visible=names)
    with gr.Row():
        pictures = [_upload(gr, label) for label in ("First picture", "Second picture")]
    other = gr.Button("Blend the pictures")
    result = _result(gr)

    def act(first: Any, second: Any, *given: Any) -> Iterator[Any]:
        for one, label in ((first, "From"), (second, "To")):
            if one in (None, ""):
                raise InputError(f"{label} must be chosen, got nothing.")
        wish = drawing.blend_of(run, first, second, COLUMNS)
        yield from _sheets(run, given, wish, COLUMNS)

    def mix(first: Any, second: Any, *given: Any) -> Iterator[Any]:
        start, end = (image_of(run, one) for one in (first, second))
        settings = Settings(**_named(given))
        found = drawing.blend_pictures(run, settings, start, end, COLUMNS)
        yield sheet(found, COLUMNS)

    _connect(gr, button, act, [first, second, *settings], result)
    _connect(gr, other, mix, [*pictures, *settings], result)


def _changing(gr: Any, run: Run, settings: list[Any]) -> None:
    with gr.Row():
        picture = _upload(gr, "Picture")
        with gr.Column():
            what = _choice(gr, run)
            strength = gr.Slider(
                0.05, 1, value=0.6, step=0.05, label="Strength: share of the steps"
            )
            button = gr.Button("Change", variant="primary")
    result = _result(gr)

    def act(path: Any, chosen: Any, strength: float, *given: Any) -> Iterator[Any]:
        wish = drawing.wish_for(run, _chosen(run, chosen), 1)
        image = image_of(run, path)
        yield from _sheets(run, given, replace(wish, image=image, strength=strength))

    _connect(gr, button, act, [picture, what, strength, *settings], result)


def _repainting(gr: Any, run: Run, settings: list[Any]) -> None:
    gr.Markdown("Paint over the part to draw again.")
    with gr.Row():
        editor = gr.ImageEditor(
            label="Picture", sources=["upload"], type="numpy", layers=False,
            brush=gr.Brush(default_size=24, colors=["#ff0000"], color_mode="fixed"),
            transforms=(),
        )  # fmt: skip
        with gr.Column():
            what = _choice(gr, run)
            button = gr.Button("Repaint", variant="primary")
    result = _result(gr)

    def act(value: Any, chosen: Any, *given: Any) -> Iterator[Any]:
        image, mask = mask_of(run, value)
        wish = drawing.wish_for(run, _chosen(run, chosen), 1)
        yield from _sheets(run, given, replace(wish, image=image, mask=mask))

    _connect(gr, button, act, [editor, what, *settings], result)


def _noising(gr: Any, run: Run, settings: list[Any]) -> None:
    gr.Markdown("The forward process: noise is added until nothing is left.")
    with gr.Row():
        picture = _upload(gr, "Picture")
        result = _result(gr)
    share = gr.Slider(0, 1, value=0.3, step=0.01, label="Time")
    words = gr.Markdown()

    def act(path: Any, share: float, *given: Any) -> Iterator[Any]:
        image = image_of(run, path)
        found, text = drawing.noisy(run, image, share, int(given[-1]))
        yield sheet(found[None]), text

    inputs, outputs = [picture, share, *settings], [result, words]
    for event in (share.change, picture.upload):
        _listen(gr, event, act, inputs, outputs)


def _upload(gr: Any, label: str) -> Any:
    return gr.Image(label=label, type="filepath", sources=["upload", "clipboard"])


def _result(gr: Any) -> Any:
    return gr.Image(
        label="Result", interactive=False, format="png",
        buttons=["download", "fullscreen"],
    )  # fmt: skip


def _connect(
    gr: Any, button: Any, act: Callable[..., Any], inputs: list[Any], result: Any
) -> None:
    _listen(gr, button.click, act, inputs, [result])


def _listen(
    gr: Any,
    event: Any,
    act: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
) -> None:
    """Calls a generator at an event; a wrong input becomes a message on the page."""

    def answer(*given: Any) -> Iterator[Any]:
        with _messages(gr):
            yield from act(*given)

    # The queue counts by identity: all drawings are one kind of work.
    event(
        answer, inputs, outputs, concurrency_id="drawing", api_visibility="private",
        trigger_mode="always_last",
    )  # fmt: skip


@contextmanager
def _messages(gr: Any) -> Iterator[None]:
    """Turns errors of the user's input into messages on the page."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _chosen(run: Run, value: Any) -> Any:
    """Returns the prompt or class of a control, None for all classes."""
    return None if not run.takes_prompts and value in (None, -1) else value


def _named(given: Any) -> dict[str, Any]:
    """Returns the values of the settings' controls by name."""
    sampler, steps, guidance, seed = given
    for name, value in (("steps", steps), ("guidance", guidance), ("seed", seed)):
        if value is None:
            raise InputError(f"{name} must be a number, got nothing.")
    return {
        "sampler": sampler, "steps": int(steps), "guidance": guidance,
        "seed": int(seed),
    }  # fmt: skip


def _sheets(
    run: Run, given: Any, wish: Wish, columns: int | None = None
) -> Iterator[np.ndarray]:
    """Yields the sheets of pictures while they form."""
    for pictures in drawing.draw(run, Settings(**_named(given)), wish):
        yield sheet(pictures, columns)
