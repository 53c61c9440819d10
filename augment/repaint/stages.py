"""What a worker does with one frame in each stage: select, generate, integrate.

A job gives the manifest lines of its items, after their files are written. What goes wrong with an item
becomes a line with status "failed"; only a file that can't be written is an error of the whole run.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from augment.crops import Crop, context_crop
from augment.engine.records import Item, line_of, write_outputs
from augment.options import SynthOptions
from augment.paint.backends import Backend, CannotFillError, Request, fill_all, make_backend
from augment.paint.blend import match_colours, paste, resize
from augment.paint.prompts import Prompts, draw_prompts, load_prompts
from augment.repaint.focus import Window, draw_window
from augment.repaint.inputs import Inputs
from augment.repaint.manifest import instance_key, sample_key
from augment.repaint.select import Candidate, Source, candidates_of, choose
from augment.repaint.truth import crop_truth, has_fragment, truth_files
from data.writer import FrameName, LabelledPolygon, encode_png
from support.errors import InputError
from support.seeds import seed_of

RESAMPLES = 20  # further windows drawn under `fragments: resample`
_ABOUT = ("class", "instance_id", "bbox", "crop")  # what each line repeats of the instance's select line


@dataclass(frozen=True)
class Patch:
    """A sample to integrate."""

    selected: dict  # line of its instance in the stage select
    generated: dict | None  # its line in the stage generate, if any
    number: int  # of the synthetic frame among those of its source frame, from 0

    @property
    def is_made(self) -> bool:
        """Whether there is a picture to integrate."""
        return self.generated is not None and self.generated["status"] == "ok"


@dataclass(frozen=True)
class Job:
    """A frame and the parts of it to work on in a stage."""

    stage: str
    source: Source
    item: Item
    # select: ids chosen over the whole split, None to choose here; generate: select lines; integrate: Patch
    parts: tuple | None = None


@dataclass(frozen=True)
class _Scene:
    """A source frame as it is read once for all its patches."""

    source: Source
    rgb: np.ndarray  # (H,W,3) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    objects: list[LabelledPolygon] | None
    digests: dict[str, str]


class Worker:
    """What a process keeps while it works on the frames of a run."""

    def __init__(self, out: Path, root: Path, options: SynthOptions):
        """root: of the input."""
        self.out, self.root, self.options = Path(out), Path(root), options

    @cached_property
    def backend(self) -> Backend:
        options = self.options
        return make_backend(options.backend, options.backend_settings, self.root, options.split)

    @cached_property
    def prompts(self) -> Prompts:
        return load_prompts(self.options.prompts or None)

    def run(self, job: Job) -> list[dict]:
        """The lines of a job's parts, and last that of its frame. OSError if files can't be written."""
        own = job.item.line(job.stage, "ok")  # before anything is read
        lines = {"select": self.select, "generate": self.generate, "integrate": self.integrate}[job.stage](
            job
        )
        return [*lines[:-1], own | lines[-1]] if job.stage == "select" else [*lines, own]

    # ---- select ---------------------------------------------------------------------------------

    def survey(self, source: Source) -> list[int]:
        """Ids of the instances of a frame that pass the filters; none for a frame that can't be read."""
        try:
            ids = Inputs(self.out).instance_ids(source)
        except InputError:
            return []  # `select` reads it again and says so
        return [one.instance_id for one in candidates_of(ids, self.options)]

    def select(self, job: Job) -> list[dict]:
        """Cut the chosen instances of a frame; their lines, and last the line of the frame."""
        source, start, inputs = job.source, time.monotonic(), Inputs(self.out)
        try:
            rgb, ids = inputs.frame(source)
        except InputError as error:
            return [_timed(line_of("select", source.key, "failed", _reason(error)), start)]
        candidates = candidates_of(ids, self.options)
        if job.parts is None:
            chosen = choose(candidates, self.options)
        else:
            chosen = [one for one in candidates if one.instance_id in job.parts]
        chosen = sorted(chosen, key=lambda one: one.instance_id)
        facts = {"inputs": inputs.digests, "size": ids.shape[::-1]}
        facts["chosen"] = [one.instance_id for one in chosen]
        if not chosen:
            reason = "no instance passes the filters" if not candidates else "no instance of it was drawn"
            return [_timed(line_of("select", source.key, "skipped", reason, **facts), start)]
        lines = [self._cut(source, rgb, ids, one, inputs.digests) for one in chosen]
        return [*lines, _timed(line_of("select", source.key, "ok", **facts), start)]

    def _cut(
        self, source: Source, rgb: np.ndarray, ids: np.ndarray, one: Candidate, digests: dict[str, str]
    ) -> dict:
        start = time.monotonic()
        crop = context_crop(one.box, ids.shape[::-1], self.options.margin, self.options.min_crop)
        mask = crop.cut(ids == one.instance_id, mirror=False)
        stem = f"work/select/{source.name.city}/{source.name}_{one.instance_id}"
        outputs = write_outputs(
            self.out,
            {
                f"{stem}_rgb.png": encode_png(crop.cut(rgb)),
                f"{stem}_mask.png": encode_png(mask.view(np.uint8) * 255),
            },
        )
        facts = {"class": one.class_name, "instance_id": one.instance_id, "area": one.area, "bbox": one.box}
        facts |= {"crop": asdict(crop), "inputs": digests, "outputs": outputs}
        return _timed(line_of("select", instance_key(source.name, one.instance_id), "ok", **facts), start)

    # ---- generate -------------------------------------------------------------------------------

    def generate(self, job: Job) -> list[dict]:
        """Repaint instances; the lines of all their samples. InputError for a back end that can't be made."""
        _ = self.backend, self.prompts  # made now: what is wrong with them is wrong with every item
        start, asked = time.monotonic(), [self._ask(job.source.name, one) for one in job.parts]
        filled = iter(fill_all(self.backend, [one for _, one in asked if isinstance(one, Request)]))
        results = [next(filled) if isinstance(one, Request) else one for _, one in asked]
        seconds = (time.monotonic() - start) / max(1, len(asked) * self.options.samples)
        return [
            line | {"seconds": round(seconds, 4)}
            for selected, (facts, _), result in zip(job.parts, asked, results, strict=True)
            for line in self._samples(job.source.name, selected, facts, result)
        ]

    def _ask(self, name: FrameName, selected: dict) -> tuple[dict, Request | InputError]:
        """What all lines of an instance's samples say, and the request, or why there is none."""
        options, inputs, backend = self.options, Inputs(self.out), self.backend
        instance_id, key = selected["instance_id"], selected["key"]
        seed = seed_of(options.seed, "prompt", key)
        prompts = draw_prompts(selected["class"], seed, self.prompts, options.style, options.samples)
        facts = _about(selected) | {"seed": seed_of(options.seed, "generate", key), "prompts": prompts}
        facts["negative"] = self.prompts.negative
        facts["backend"] = {"name": backend.name, "version": backend.version} | backend.details
        try:
            rgb, mask = (inputs.made(path) for path in crop_files(selected))
        except InputError as error:
            return facts, error
        facts["inputs"] = inputs.digests
        about = (selected["class"], f"{name}/{instance_id}", prompts, facts["negative"], facts["seed"])
        return facts, Request(rgb, mask > 0, *about)

    def _samples(
        self, name: FrameName, selected: dict, facts: dict, result: list[np.ndarray] | Exception
    ) -> Iterator[dict]:
        """The lines of an instance's samples, after their files are written."""
        facts, instance_id = dict(facts), selected["instance_id"]
        for sample, prompt in enumerate(facts.pop("prompts"), 1):
            key = sample_key(name, instance_id, sample)
            if isinstance(result, Exception):
                status = "skipped" if isinstance(result, CannotFillError) else "failed"
                yield line_of("generate", key, status, _reason(result), prompt=prompt, **facts)
            else:
                path = f"work/generate/{name.city}/{name}_{instance_id}_{sample:03d}.png"
                picture = encode_png(result[sample - 1])
                outputs = write_outputs(self.out, {path: picture})
                yield line_of("generate", key, "ok", prompt=prompt, outputs=outputs, **facts)

    # ---- integrate ------------------------------------------------------------------------------

    def integrate(self, job: Job) -> list[dict]:
        """Paste patches into their frame and crop them out again; a line for each."""
        if not job.parts:
            return []
        source, inputs = job.source, Inputs(self.out)
        try:
            rgb, ids = inputs.frame(source)
            scene = _Scene(source, rgb, ids, inputs.objects(source, ids.shape), inputs.digests)
        except InputError as error:
            return [
                line_of("integrate", one.generated["key"], "failed", _reason(error), **_about(one.selected))
                for one in job.parts
            ]
        return [self._put(scene, patch) for patch in job.parts]

    def _put(self, scene: _Scene, patch: Patch) -> dict:
        start, key = time.monotonic(), patch.generated["key"]
        inputs = Inputs(self.out)
        name = scene.source.synthetic_name(patch.number)
        facts = _about(patch.selected) | {"synthetic": str(name), "colour_match": self.options.colour_match}
        try:
            picture = inputs.made(next(iter(patch.generated["outputs"])))
            edited = self._edited(scene, patch.selected, picture)
            window, tries = self._window(scene, patch.selected, key)
            files, found = self._focus(scene, name, edited, window)
            files[f"panorama/{scene.source.split}/{name.city}/{name}_leftImg8bit.png"] = encode_png(edited)
        except CannotFillError as error:
            return _timed(line_of("integrate", key, "skipped", _reason(error), **facts), start)
        except Exception as error:  # the other items go on
            return _timed(line_of("integrate", key, "failed", _reason(error), **facts), start)
        facts |= {"window": asdict(window), "n": window.multiple, "windows_tried": tries} | found
        facts |= {"inputs": scene.digests | inputs.digests, "outputs": write_outputs(self.out, files)}
        return _timed(line_of("integrate", key, "ok", **facts), start)

    def _edited(self, scene: _Scene, selected: dict, picture: np.ndarray) -> np.ndarray:
        """The whole frame with a patch on it; only the pixels of the instance change."""
        crop = Crop(**selected["crop"])
        patch, original = crop.back(picture), crop.inside(scene.rgb)
        mask = crop.inside(scene.instance_ids) == selected["instance_id"]
        patch = match_colours(patch, original, mask, self.options.colour_match)
        return paste(scene.rgb, patch, mask, crop.box, self.options.feather)

    def _window(self, scene: _Scene, selected: dict, key: str) -> tuple[Window, int]:
        """The window of a focus crop, and how many were drawn. Raises CannotFillError if there is none."""
        options = self.options
        rng = np.random.default_rng(seed_of(options.seed, "integrate", key))
        size = scene.instance_ids.shape[::-1]
        tried = 0
        while True:
            window = draw_window(tuple(selected["bbox"]), size, rng)
            if window is None:
                raise CannotFillError(f"no 2:1 window of a {size[0]}x{size[1]} frame holds the instance")
            tried += 1
            if options.fragments != "resample" or tried > RESAMPLES:
                return window, tried
            if not has_fragment(scene.instance_ids, window, options.min_pixels):
                return window, tried

    def _focus(
        self, scene: _Scene, name: FrameName, edited: np.ndarray, window: Window
    ) -> tuple[dict[str, bytes], dict]:
        """The files of a focus crop by path below OUT, and what its line says about its truth."""
        options = self.options
        size = focus_size(edited.shape[1])
        truth = crop_truth(
            scene.instance_ids,
            scene.objects,
            window,
            size,
            options.truth,
            options.fragments,
            options.min_pixels,
        )
        cut = edited[window.y0 : window.y0 + window.height, window.x0 : window.x0 + window.width]
        truth_base = _path(scene.source.split, name, scene.source.truth)
        files = {f"{truth_base}{ending}": content for ending, content in truth_files(truth).items()}
        files[f"{_path(scene.source.split, name, 'leftImg8bit')}.png"] = encode_png(resize(cut, *size))
        id_map = {str(old): new for old, new in sorted(truth.id_map.items())}
        return files, {"id_map": id_map, "dropped": sorted(truth.dropped)}


def focus_size(width: int) -> tuple[int, int]:
    """Width and height of the focus crops of frames of a width: 2:1 as their windows, whatever the frame."""
    return width, max(1, width // 2)


def crop_files(selected: dict) -> tuple[str, str]:
    """Paths below OUT of an instance's crop and mask, from its select line."""
    paths = sorted(selected["outputs"])  # "..._mask.png" comes before "..._rgb.png"
    return paths[1], paths[0]


def _path(split: str, name: FrameName, kind: str) -> str:
    """Path of a file of the new tree without its ending."""
    return f"{kind}/{split}/{name.city}/{name}_{kind}"


def _about(selected: dict) -> dict:
    return {name: selected[name] for name in _ABOUT}


def _timed(line: dict, start: float) -> dict:
    return line | {"seconds": round(time.monotonic() - start, 4)}


def _reason(error: Exception) -> str:
    """One line about what went wrong."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (InputError, CannotFillError)) else f"{type(error).__name__}: {text}"
