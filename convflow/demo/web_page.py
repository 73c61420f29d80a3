"""The parts of the web page of `convflow demo web`, by gradio, and what happens at a click."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gradio as gr
import torch
from PIL import Image

from convflow.data.grid import tile, to_picture
from convflow.demo.request import PictureRequest
from convflow.demo.studio import OTHER_SIZE, Moment, Neighbour, Studio, known_images, strips
from convflow.demo.web_parts import create_editor, create_gallery, reported, told
from convflow.demo.web_words import PAINTING, about_making, about_model, about_nearest
from convflow.generate import Samples
from convflow.types import InputError, Size

NUM = 4
"""Pictures that the form asks for at first."""

SHOWN_SIDE = 64
"""Tiles of strips are enlarged until a side has so many pixels."""

PAINTED_SIDE = 256
"""A picture to paint on is enlarged until a side has so many pixels."""

CLEAN_EVERY, KEPT_FOR = 300, 1800
"""Seconds: files of pictures are looked through so often, and removed when they are so old."""

LOOK = """
.pixels img, .pixels canvas { image-rendering: pixelated; }
@media (max-width: 600px) {
  .pixels .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
}
"""
"""The style of pictures: pixels are squares, however large they are shown."""

Update = dict[Any, Any]
"""From parts of the page to what they show next."""


CLASSES_FORM = {"label": "Classes", "info": "names or numbers, given in turn; none = all classes"}
TEXTS_FORM = {"label": "Texts", "info": "write or choose, given in turn; none = the examples"}
"""What the form says where pictures are asked for."""


class WebPage:
    """The page of a model: a form, and tabs for what comes of it.

    Args:
        studio: the model.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        name = studio.model.rstrip("/").rpartition("/")[2]
        self.blocks = gr.Blocks(
            title=f"{name} - convflow",
            analytics_enabled=False,
            delete_cache=(CLEAN_EVERY, KEPT_FOR),
        )
        with self.blocks:
            gr.Markdown(f"# Draw with {name}")
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    self._add_form()
                with gr.Column(scale=2, min_width=280), gr.Tabs():
                    self._add_pictures()
                    self._add_making()
                    self._add_painting()
                    with gr.Tab("The model"):
                        gr.Markdown(about_model(studio))
            self._connect()

    def _add_form(self) -> None:
        """Add what a visitor chooses."""
        studio, pipe = self.studio, self.studio.pipe
        sizes, sampling = studio.sizes(), pipe.sampling
        names = studio.class_names
        form: dict[str, Any] = TEXTS_FORM if pipe.text.used else CLASSES_FORM
        self.labels = gr.Dropdown(
            names,
            multiselect=True,
            allow_custom_value=True,
            visible=pipe.model.conditional,
            **form,
        )
        self.num = gr.Slider(
            1, studio.limits.num, min(NUM, studio.limits.num), step=1, label="Number"
        )
        self.shape = gr.Dropdown(
            [*sizes, OTHER_SIZE], value=studio.size_name(*pipe.size), label="Size", interactive=True
        )
        with gr.Row():
            step: dict[str, Any] = {"step": pipe.multiple, "min_width": 100}
            self.height = gr.Number(pipe.size[0], label="Height in pixels", **step)
            self.width = gr.Number(pipe.size[1], label="Width in pixels", **step)
        with gr.Row():
            self.seed = gr.Number(0, label="Seed", min_width=100)
            self.other = gr.Button("Next seed", min_width=100)
        with gr.Accordion("Solver and guidance", open=False):
            self.solver = gr.Dropdown(studio.solvers, value=sampling.solver.kind, label="Solver")
            count = sampling.solver.num_steps or 20
            self.steps = gr.Slider(1, studio.limits.steps, count, step=1, label="Steps")
            self.guidance = gr.Slider(
                0,
                10,
                sampling.guidance,
                step=0.1,
                visible=pipe.model.conditional,
                label="Guidance",
                info="1 = none; more shows what is asked for more clearly, and less variety",
            )
        self.compare = gr.Checkbox(
            False, label="Show the nearest training pictures", visible=studio.compares
        )
        self.draw_button = gr.Button("Draw", variant="primary")
        self.stop = gr.Button("Stop")
        self.form = [
            *(self.labels, self.num, self.height, self.width, self.seed),
            *(self.solver, self.steps, self.guidance),
        ]

    def _add_pictures(self) -> None:
        with gr.Tab("Pictures"):
            self.status = gr.Markdown("Press *Draw*.")
            self.gallery = _gallery("Pictures", "pictures")
            with gr.Accordion("The same pictures by command or in Python", open=True):
                self.command, self.python = _code("shell"), _code("python")
            with gr.Column(visible=self.studio.compares):
                gr.Markdown(about_nearest(self.studio) if self.studio.compares else "")
                self.neighbours = _gallery("Each picture and its nearest", "neighbours")

    def _add_making(self) -> None:
        with gr.Tab("How they are made"):
            self.making = gr.Markdown(about_making(self.studio))
            self.strips = gr.Image(
                type="pil",
                format="png",
                interactive=False,
                label="From noise to picture",
                elem_id="strips",
                elem_classes=["pixels"],
            )

    def _add_painting(self) -> None:
        with gr.Tab("Paint over", visible=not self.studio.pipe.process.multiscale):
            gr.Markdown(PAINTING)
            self.editor = create_editor(
                type="pil",
                image_mode="RGBA",
                sources=("upload", "clipboard"),
                transforms=(),
                brush=gr.Brush(colors=["#ff4d4d"], color_mode="fixed"),
                layers=False,
                format="png",
                label="Picture, painted where it is drawn anew",
            )
            with gr.Row():
                self.take = gr.Button("Take the first picture drawn", min_width=140)
                self.paint_button = gr.Button("Draw anew", variant="primary", min_width=140)
            self.paint_status = gr.Markdown("")
            self.painted = _gallery("Pictures, then image.png and mask.png", "painted")
            self.paint_command, self.paint_python = _code("shell"), _code("python")

    def _connect(self) -> None:
        """Say what happens at a click."""
        one: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
        outputs = [
            *(self.status, self.gallery, self.making, self.strips),
            *(self.neighbours, self.command, self.python),
        ]
        drawing = self.draw_button.click(
            self.draw,
            [*self.form, self.compare],
            outputs,
            api_name="draw",
            show_progress_on=[self.gallery],
            **one,
        )
        painting = self.paint_button.click(
            self.paint,
            [*self.form, self.editor],
            [self.paint_status, self.painted, self.paint_command, self.paint_python],
            api_name="paint",
            show_progress_on=[self.painted],
            **one,
        )
        quick: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        quick["show_progress"] = "hidden"
        self.stop.click(None, cancels=[drawing, painting], **quick)
        sizes = {OTHER_SIZE: (gr.skip(), gr.skip())} | self.studio.sizes()
        size = [self.height, self.width]
        self.shape.input(lambda name: sizes[name], self.shape, size, **quick)
        gr.on(
            [field.input for field in size],
            self.studio.size_name,
            size,
            self.shape,
            trigger_mode="always_last",
            **quick,
        )
        self.other.click(next_seed, self.seed, self.seed, **quick)
        self.take.click(take_first, self.gallery, self.editor, **quick)

    def draw(self, *form: Any) -> Iterator[Update]:
        """Yield what the page shows while pictures are drawn, and after.

        Args:
            *form: values of `form`, then whether to look for training pictures.
        """
        yield from reported(self.status, self._draw(*form))

    def _draw(self, *form: Any) -> Iterator[Update]:
        *form_values, compare = form
        request = self._read(form_values)
        samples, seen = self.studio.samples(request), list[Moment]()
        for moment in self.studio.make(samples, request.num):
            seen.append(moment)
            if moment.step < moment.of:
                yield {
                    self.status: progress(moment),
                    self.gallery: self._pictures(samples, moment),
                }
        last, found = seen[-1], list[Neighbour]()
        for result in self.studio.nearest(last.pixels) if compare and self.studio.compares else ():
            if isinstance(result, list):
                found = result
            else:
                yield {self.status: f"{result:,} training pictures looked at."}
        pairs = [
            (
                tile(torch.stack([pixels, near.image]), columns=2),
                f"{near.distance:.1f} levels apart",
            )
            for pixels, near in zip(last.pixels, found, strict=bool(found))
        ]
        yield {
            self.status: progress(last),
            self.gallery: self._pictures(samples, last),
            self.making: about_making(self.studio, samples, *seen),
            self.strips: strips(seen, enlargement(samples.size, SHOWN_SIDE)),
            self.neighbours: pairs,
            self.command: request.command(self.studio.model),
            self.python: request.python(self.studio.model),
        }

    def paint(self, *form: Any) -> Iterator[Update]:
        """Yield what the page shows while a part of a picture is drawn anew, and after.

        Args:
            *form: values of `form`, then that of the editor.
        """
        yield from reported(self.paint_status, self._paint(*form))

    def _paint(self, *form: Any) -> Iterator[Update]:
        *form_values, edited = form
        request = self._read(form_values)
        image, mask = read_painting(edited)
        samples = self.studio.samples(request, image=image, mask=mask)
        for moment in self.studio.make(samples, request.num):
            pictures = self._pictures(samples, moment)
            yield {self.paint_status: progress(moment), self.painted: pictures}
        files = zip(known_images(samples), ("image.png", "mask.png"), strict=True)
        yield {
            self.painted: [*pictures, *files],
            self.paint_command: request.command(self.studio.model, inpaint=True),
            self.paint_python: request.python(self.studio.model, inpaint=True),
        }

    def _read(self, form: list[Any]) -> PictureRequest:
        labels, num, height, width, seed, solver, steps, guidance = form
        numbers = {"num": num, "seed": seed, "solver": solver, "steps": steps, "guidance": guidance}
        return self.studio.read(labels, (height, width), **numbers)

    def _pictures(self, samples: Samples, moment: Moment) -> list[tuple[Any, str]]:
        names = samples.names(range(len(moment.pixels)), self.studio.pipe.name_of)
        return list(zip(map(to_picture, moment.pixels), names, strict=True))


def read_painting(edited: Any) -> tuple[Image.Image, Image.Image]:
    """Return the picture in an editor, and a mask that is white where it is painted over.

    Raises:
        InputError: no picture, or layers of other sizes.
    """
    picture = edited.get("background") if isinstance(edited, dict) else None
    if not isinstance(picture, Image.Image):
        raise InputError("expected a picture to paint on, got none; upload one, or take one drawn")
    mask = Image.new("L", picture.size)
    for layer in edited.get("layers") or ():
        if not isinstance(layer, Image.Image) or layer.size != picture.size:
            raise InputError("expected paint on the whole picture, got another size; paint again")
        paint = layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 * (alpha > 0))
        mask.paste(255, mask=paint)
    return picture, mask


def take_first(pictures: list[tuple[Image.Image, str]] | None) -> Image.Image:
    """Return the first picture of a gallery, each pixel as a square, large enough to paint on."""
    with told():
        if not pictures:
            raise InputError("expected a picture, got none; draw some first")
    picture = pictures[0][0]
    zoom = enlargement(picture.size, PAINTED_SIDE)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def next_seed(seed: float | None) -> int:
    """Return the whole number above what the field of the seed holds, 1 where it is empty."""
    return math.floor(seed or 0) + 1


def enlargement(size: Size, side: int) -> int:
    """Return the power of two by which the longer side becomes `side` pixels or more.

    Halving gives the picture back as it was.
    """
    return 2 ** max(0, math.ceil(math.log2(side / max(size))))


def progress(moment: Moment) -> str:
    """Return how far pictures are."""
    count, _, height, width = moment.pixels.shape
    if moment.step < moment.of:
        return f"Step {moment.step} of {moment.of}."
    return f"{count} of {height}x{width} (height x width) in {moment.of} steps."


def _gallery(label: str, name: str, columns: int = 4) -> gr.Gallery:
    return create_gallery(
        label=label,
        columns=columns,
        type="pil",
        format="png",
        object_fit="contain",
        height="auto",
        interactive=False,
        elem_id=name,
        elem_classes=["pixels"],
    )


def _code(language: Any) -> gr.Code:
    label = "Command" if language == "shell" else "Python"
    return gr.Code(language=language, label=label, interactive=False, lines=1, wrap_lines=True)
