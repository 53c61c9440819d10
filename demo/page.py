"""The page in gradio: what is where, and which action an event asks for.

All events wait for one another, because models and painters are shared: see `ONE_AT_A_TIME`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import gradio as gr

from augment.paint.folder import MAX_METRES
from augment.placement.filters import FILTERS, Filters
from demo import actions, uploads
from demo.files import write_zip
from demo.images import before_and_after, in_scene, jpeg_file, scene_image, thumbnail
from demo.state import FORCED, PIXELS, OwnObject, State, Wishes, begin
from demo.studio import SHAPE_SLIDERS, Studio
from support.errors import InputError

TITLE = "Where and what"
INTRODUCTION = """# Where and what
**Click in the scene: an object stands where you clicked.** How tall and how wide it is there, and its shape,
are the model's; what stands nearer hides it, and what a filter rejects is left out, with the reason.
"""
PLACE_LABELS = ("across", "near or far", "height", "width")  # the four numbers of z_spatial
FILTER_LABELS = {
    "inside": "inside the image",
    "apart": "apart from other new objects",
    "support": "stands on ground of its kind",
    "height": "height in metres plausible",
    "overlap": "not mostly occluded",
    "visible": "large enough to be seen",
    "score": "score of the place",
}
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
CSS = """
.gradio-container {max-width: 1480px !important; margin: 0 auto;}
#scene img {cursor: crosshair;}
#message {min-height: 3.2em;}
#thumbnails, #thumbnails .grid-wrap {height: auto !important; min-height: 0 !important; max-height: none;}
#thumbnails .thumbnail-item {aspect-ratio: 2 / 1;}
footer {display: none !important;}
"""
THEME = gr.themes.Default(
    primary_hue="orange", neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=["monospace"]
)
SAVE = "() => document.querySelector('#zip').click()"


def build(studio: Studio) -> gr.Blocks:
    """The page for the models and scenes of a studio."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        state = gr.State()
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=7):
                with gr.Tabs():
                    with gr.Tab("Scene"):
                        image = gr.Image(
                            format="jpeg",
                            show_label=False,
                            interactive=False,
                            buttons=["fullscreen"],
                            elem_id="scene",
                        )
                    with gr.Tab("Before and after"):
                        compared = gr.ImageSlider(
                            format="jpeg", show_label=False, interactive=False, buttons=[], elem_id="compared"
                        )
                message = gr.Markdown(elem_id="message")
                with gr.Accordion("Place (z_spatial) and shape (z_appr) of the chosen object"):
                    with gr.Row():
                        place = [_slider(label, f"place{i}") for i, label in enumerate(PLACE_LABELS)]
                    with gr.Row():
                        count = SHAPE_SLIDERS if studio.draws_shapes else 0
                        shape = [_slider(f"shape {i + 1}", f"shape{i}") for i in range(count)]
                gallery = gr.Gallery(
                    [thumbnail(studio.scene(number).image) for number in range(len(studio.frames))],
                    format="jpeg",
                    show_label=False,
                    columns=6,
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="thumbnails",
                )
                with gr.Accordion("Your own scene", open=False):
                    with gr.Row():
                        own = [
                            gr.File(label=label, height=110, elem_id=name)
                            for label, name in (
                                ("label ids, PNG", "label_map"),
                                ("instance ids, PNG", "instance_map"),
                                ("image" if studio.labeller else "image, if any", "own_picture"),
                            )
                        ]
                    with gr.Row():
                        cityscapes = gr.Checkbox(label="Cityscapes' camera took it: judge heights in metres")
                        use = gr.Button("Use these", elem_id="use")
            with gr.Column(scale=3, min_width=320):
                class_name = gr.Radio(
                    list(studio.classes), value=studio.classes[0], label="What stands there", elem_id="class"
                )
                with gr.Row():
                    surprise = gr.Button("Surprise me", variant="primary", elem_id="surprise")
                    another = gr.Button("Another shape", elem_id="another")
                objects = gr.Radio([], label="Objects in the scene", type="index", elem_id="objects")
                with gr.Row():
                    remove = gr.Button("Remove", elem_id="remove")
                    undo = gr.Button("Undo", elem_id="undo")
                    zip_it = gr.Button("Download", elem_id="download")
                saved = gr.DownloadButton("zip", visible="hidden", elem_id="zip")
                with gr.Accordion("Your own object", open=False, elem_id="own_object"):
                    cutout = gr.File(label="cut-out: PNG with alpha", height=110, elem_id="cutout")
                    label = "its height in metres; 0: as the class"
                    metres = gr.Number(0, label=label, minimum=0, maximum=MAX_METRES, elem_id="metres")
                    no_class = gr.Checkbox(label="It is of no class: label it dynamic", elem_id="no_class")
                with gr.Accordion("Density and pixels"):
                    opacity = gr.Slider(0, 1, 0, step=0.05, label="show where one may stand", elem_id="heat")
                    temperature = gr.Slider(0.2, 2, 1, step=0.05, label="temperature of places")
                    offered = [(PIXELS[name], name) for name in studio.painters]
                    pixels = gr.Radio(
                        offered, value=offered[0][1], label="Pixels of new objects", elem_id="pixels"
                    )
                with gr.Accordion("Filters"):
                    rules = gr.CheckboxGroup(
                        [(FILTER_LABELS[filter_name], filter_name) for filter_name in FILTERS],
                        value=list(FILTERS),
                        show_label=False,
                    )
                    min_score = gr.Slider(0, 1, 0, step=0.01, label="least score of a place")
                    force = gr.Checkbox(label="Put it there whatever the filters say", elem_id="force")

        switches = [class_name, temperature, pixels, rules, min_score, force]
        seen = [state, image, compared, objects, message]
        sliders = [*place, *shape]
        folder = Path(mkdtemp())  # of what is shown

        def show(state: State, wishes: Wishes, opacity: float) -> list:
            """Values of `seen`."""
            names = [actions.named(state, number) for number in range(len(state.objects))]
            chosen = None if state.chosen is None else names[state.chosen]
            scene = jpeg_file(scene_image(studio, state, wishes, opacity), folder)
            pair = tuple(jpeg_file(one, folder) for one in before_and_after(state))
            return [state, scene, pair, gr.Radio(names, value=chosen), state.message]

        def show_sliders(state: State, wishes: Wishes) -> list:
            """Values of `sliders`."""
            if state.chosen is None:
                return [0.0] * len(sliders)
            noise = [*actions.place_noise(studio, state, wishes), *actions.shape_values(studio, state)]
            return [round(float(value), 2) for value in noise]

        def wished(
            class_name: str, temperature: float, pixels: str, rules: list[str], min_score: float, force: bool
        ) -> Wishes:
            """What the values of `switches` say."""
            filters = FORCED if force else Filters(tuple(rules), min_score=min_score)
            return Wishes(class_name, filters, temperature, pixels)

        def act(function: Callable, state: State, opacity: float, *values) -> list:
            """Everything that is seen after function(state, wishes, *other values)."""
            wishes, others = wished(*values[: len(switches)]), values[len(switches) :]
            try:
                state = function(state, wishes, *others)
            except InputError as error:
                state = actions.with_error(state, error)
            return [*show(state, wishes, opacity), *show_sliders(state, wishes)]

        def on(event: Callable, function: Callable, *others) -> None:
            """Let an event do function(state, wishes, *values of others)."""
            inputs = [state, opacity, *switches, *others]
            event(partial(act, function), inputs, [*seen, *sliders], **ONE_AT_A_TIME)

        def open_scene(state: State | None, number: int) -> State:
            return actions.in_scene_of(state, begin(studio.scene(number)))

        on(page.load, lambda state, wishes: open_scene(state, 0))
        on(surprise.click, partial(actions.surprise, studio))
        on(another.click, partial(actions.another_shape, studio))
        on(remove.click, partial(actions.remove, studio))
        on(undo.click, lambda state, wishes: actions.undo(state))
        on(pixels.input, partial(actions.repaint, studio))
        on(objects.input, lambda state, wishes, number: actions.choose(state, number), objects)
        on(
            use.click,
            lambda state, wishes, *paths: actions.in_scene_of(state, uploads.own_scene(studio, *paths)),
            *own,
            cityscapes,
        )
        # Each says what it changes alone: one may overtake another on the way.
        for event, component, name in (
            *((event, cutout, "path") for event in (cutout.upload, cutout.clear)),
            *((event, metres, "metres") for event in (metres.submit, metres.blur)),
            (no_class.input, no_class, "no_class"),
        ):
            on(event, partial(take, studio, name), component)
        for unchanged in (class_name.input, temperature.release, opacity.release):
            on(unchanged, lambda state, wishes: state)

        def clicked(event: gr.SelectData, state: State, opacity: float, *values) -> list:
            x, y = in_scene(state, *event.index)
            return act(
                lambda state, wishes: actions.click(studio, state, wishes, x, y), state, opacity, *values
            )

        def picked(event: gr.SelectData, state: State, opacity: float, *values) -> list:
            return act(lambda state, wishes: open_scene(state, event.index), state, opacity, *values)

        everything = [state, opacity, *switches], [*seen, *sliders]
        image.select(clicked, *everything, **ONE_AT_A_TIME)
        gallery.select(picked, *everything, **ONE_AT_A_TIME)

        def dragged(function: Callable, number: int, state: State, opacity: float, *values) -> list:
            """What is seen while a slider moves; the sliders themselves are left to the hand."""
            *switched, value = values
            wishes = wished(*switched)
            if state.chosen is not None:
                state = function(studio, state, wishes, number, value)
            return show(state, wishes, opacity)

        for group, function in ((place, actions.move), (shape, actions.reshape)):
            for number, slider in enumerate(group):
                inputs = [state, opacity, *switches, slider]
                handler = partial(dragged, function, number)
                slider.input(handler, inputs, seen, trigger_mode="always_last", **ONE_AT_A_TIME)
                on(slider.release, lambda state, wishes: actions.settled(state))

        def make_zip(state: State) -> tuple:
            try:
                path = write_zip(state, Path(mkdtemp()) / f"{state.scene.frame.name}.zip")
            except InputError as error:
                return gr.skip(), str(error)
            return str(path), f"Saved as {path.name}."

        zip_it.click(make_zip, state, [saved, message], **ONE_AT_A_TIME).then(None, js=SAVE)
    return page


def take(studio: Studio, name: str, state: State, wishes: Wishes, value: str | float | bool | None) -> State:
    """The state when a field of `OwnObject` was given."""
    return uploads.take_object(studio, state, **{name: value or getattr(OwnObject(), name)})


def _slider(label: str, name: str) -> gr.Slider:
    """One number of the noise, in standard deviations."""
    return gr.Slider(-4.8, 4.8, 0, step=0.01, label=label, elem_id=name, buttons=[])


def serve(page: gr.Blocks, host: str, port: int, *, share: bool) -> None:
    """Open the page and say where it is, until the program is stopped. InputError if the port is in use."""
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=not share,
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
            max_file_size="100mb",
            theme=THEME,
            css=CSS,
        )
    except OSError as error:
        raise InputError(f"--port {port}: can't be opened at {host} ({error}); choose another") from None
    print(f"open {address}", flush=True)
    page.block_thread()
