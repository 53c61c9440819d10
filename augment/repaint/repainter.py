"""What is made of one frame: its instances chosen, cut out, repainted, pasted and cropped out again.

What goes wrong with an instance or a sample becomes a line with status "failed"; only what is wrong with all,
as a back end that can't be made or a file that can't be written, is an error of the whole run.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from augment.crops import Crop, context_crop
from augment.options import WITH_WEIGHTS, SynthOptions
from augment.paint.backends import Backend, CannotFillError, Request, fill_all, make_backend
from augment.paint.blend import match_colours, paste, resize
from augment.paint.prompts import Prompts, draw_prompts, load_prompts
from augment.repaint.focus import Window, draw_window
from augment.repaint.ground_truth import crop_ground_truth, has_fragment
from augment.repaint.inputs import Inputs
from augment.repaint.manifest import instance_key, sample_key
from augment.repaint.select import Candidate, Source, candidates_of, choose
from data.frame import IMAGE_KIND, POLYGONS, Frame
from data.writer import LabelledPolygon, encode_png
from engine.records import WorkItem, line_of
from support.errors import InputError
from support.seeds import seed_of

RESAMPLES = 20  # further windows drawn under `fragments: resample`
_ABOUT = ("class", "instance_id", "bbox", "crop")  # what each line repeats of the instance's select line
_FAILED = {"status": "failed", "reason": "some of its samples failed"}  # in a frame's line


@dataclass(frozen=True)
class Task:
    """A frame, and the ids of the instances chosen over the whole split; None to choose here."""

    source: Source
    chosen: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Cut:
    """An instance as it was cut out."""

    line: dict  # of the stage select
    rgb: np.ndarray  # (h,w,3) uint8, the crop
    mask: np.ndarray  # (h,w) bool


@dataclass(frozen=True)
class _Scene:
    """A source frame as it is read once for all its patches."""

    source: Source
    rgb: np.ndarray  # (H,W,3) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    objects: list[LabelledPolygon] | None
    digests: dict[str, str]


class Repainter:
    """What repaints frames: `engine.tree.Make` for items whose task is a `Task`."""

    def __init__(self, root: Path, options: SynthOptions):
        """root: of the input."""
        if "torch" in sys.modules and options.backend not in WITH_WEIGHTS:
            sys.modules["torch"].set_num_threads(1)
        self.root, self.options = Path(root), options

    @cached_property
    def backend(self) -> Backend:
        options = self.options
        return make_backend(options.backend, options.backend_settings, self.root, options.split)

    @cached_property
    def prompts(self) -> Prompts:
        return load_prompts(self.options.prompts or None)

    def __call__(self, item: WorkItem, write: Callable) -> list[dict]:
        """The lines of a frame in the three stages; only in the first if there is nothing to repaint.

        InputError for a back end that can't be made, OSError if files can't be written.
        """
        source, start, inputs = item.task.source, time.monotonic(), Inputs()
        frame = source.frame
        own = item.line("select")  # before anything is read
        own["sources"].pop(frame.annotation_path(POLYGONS).name, None)
        try:
            rgb, ids = inputs.frame(frame)
        except InputError as error:
            return [_timed(line_of("select", frame.key, "failed", _reason(error)), start)]
        candidates = candidates_of(ids, self.options)
        if item.task.chosen is None:
            chosen = choose(candidates, self.options)
        else:
            chosen = [one for one in candidates if one.instance_id in item.task.chosen]
        chosen = sorted(chosen, key=lambda one: one.instance_id)
        facts = {"inputs": dict(inputs.digests), "size": ids.shape[::-1]}
        facts["chosen"] = [one.instance_id for one in chosen]
        if not chosen:
            reason = "no instance passes the filters" if not candidates else "no instance of it was drawn"
            return [_timed(line_of("select", frame.key, "skipped", reason, **facts), start)]
        cuts = [self._cut(frame, rgb, ids, one, facts["inputs"], write) for one in chosen]
        selected = [*(cut.line for cut in cuts), _timed(own | facts, start)]
        generated, images = self._generate(frame, cuts, write)
        integrated = self._integrate(source, rgb, ids, inputs, cuts, generated, images, write)
        own = {"stage": "generate", "key": frame.key, "status": "ok", "sources": {}, "asked": None}
        return [
            *selected,
            *generated,
            own | (_FAILED if _any_failed(generated) else {}),
            *integrated,
            _FAILED if _any_failed(integrated) else {},
        ]

    # ---- select ---------------------------------------------------------------------------------

    def _cut(
        self,
        frame: Frame,
        rgb: np.ndarray,
        ids: np.ndarray,
        one: Candidate,
        digests: dict[str, str],
        write: Callable,
    ) -> _Cut:
        start = time.monotonic()
        crop = context_crop(one.box, ids.shape[::-1], self.options.margin, self.options.min_crop)
        mask, cut = crop.cut(ids == one.instance_id, mirror=False).copy(), crop.cut(rgb).copy()
        stem = f"work/select/{frame.city}/{frame.name}_{one.instance_id}"
        outputs = write(
            {f"{stem}_rgb.png": encode_png(cut), f"{stem}_mask.png": encode_png(mask.view(np.uint8) * 255)}
        )
        facts = {"class": one.class_name, "instance_id": one.instance_id, "area": one.area, "bbox": one.box}
        facts |= {"crop": asdict(crop), "inputs": digests, "outputs": outputs}
        line = line_of("select", instance_key(frame, one.instance_id), "ok", **facts)
        return _Cut(_timed(line, start), cut, mask)

    # ---- generate -------------------------------------------------------------------------------

    def _generate(
        self, frame: Frame, cuts: list[_Cut], write: Callable
    ) -> tuple[list[dict], list[np.ndarray | None]]:
        """Repaint instances; the lines and images of all their samples."""
        _ = self.backend, self.prompts  # made now: what is wrong with them is wrong with every item
        start, asked = time.monotonic(), [self._ask(frame, cut) for cut in cuts]
        results = fill_all(self.backend, [request for _, request in asked])
        seconds = round((time.monotonic() - start) / (len(asked) * self.options.samples), 4)
        lines, images = [], []
        for cut, (facts, request), result in zip(cuts, asked, results, strict=True):
            for line, image in self._samples(frame, cut.line, facts, request.prompts, result, write):
                lines.append(line | {"seconds": seconds})
                images.append(image)
        return lines, images

    def _ask(self, frame: Frame, cut: _Cut) -> tuple[dict, Request]:
        """What all lines of an instance's samples say, and the request."""
        options, backend, selected = self.options, self.backend, cut.line
        instance_id, key = selected["instance_id"], selected["key"]
        seed = seed_of(options.seed, "prompt", key)
        prompts = draw_prompts(selected["class"], seed, self.prompts, options.style, options.samples)
        facts = _about(selected) | {"seed": seed_of(options.seed, "generate", key)}
        facts["negative"] = self.prompts.negative
        facts["backend"] = {"name": backend.name, "version": backend.version} | backend.details
        facts["inputs"] = {path: selected["outputs"][path] for path in crop_files(selected)}
        about = (selected["class"], f"{frame.name}/{instance_id}", prompts, facts["negative"], facts["seed"])
        return facts, Request(cut.rgb, cut.mask, *about)

    def _samples(
        self,
        frame: Frame,
        selected: dict,
        facts: dict,
        prompts: tuple[str, ...],
        result: list[np.ndarray] | Exception,
        write: Callable,
    ) -> Iterator[tuple[dict, np.ndarray | None]]:
        """Line and image of each of an instance's samples, after its file is written."""
        instance_id = selected["instance_id"]
        for sample, prompt in enumerate(prompts, 1):
            key = sample_key(frame, instance_id, sample)
            if isinstance(result, Exception):
                status = "skipped" if isinstance(result, CannotFillError) else "failed"
                yield line_of("generate", key, status, _reason(result), prompt=prompt, **facts), None
            else:
                path = f"work/generate/{frame.city}/{frame.name}_{instance_id}_{sample:03d}.png"
                outputs = write({path: encode_png(result[sample - 1])})
                yield (
                    line_of("generate", key, "ok", prompt=prompt, outputs=outputs, **facts),
                    result[sample - 1],
                )

    # ---- integrate ------------------------------------------------------------------------------

    def _integrate(
        self,
        source: Source,
        rgb: np.ndarray,
        ids: np.ndarray,
        inputs: Inputs,
        cuts: list[_Cut],
        generated: list[dict],
        images: list[np.ndarray | None],
        write: Callable,
    ) -> list[dict]:
        """Paste patches into their frame and crop them out again; a line for each sample."""
        scene, problem = None, ""
        try:
            scene = _Scene(source, rgb, ids, inputs.objects(source.frame, ids.shape), inputs.digests)
        except InputError as error:
            problem = _reason(error)
        lines = []
        for number, (line, image) in enumerate(zip(generated, images, strict=True)):
            selected = cuts[number // self.options.samples].line
            if image is None:
                reason = f"generate {line['status']}: {line['reason']}"
                lines.append(line_of("integrate", line["key"], "skipped", reason))
            elif scene is None:
                lines.append(line_of("integrate", line["key"], "failed", problem, **_about(selected)))
            else:
                lines.append(self._put(scene, selected, line, image, number, write))
        return lines

    def _put(
        self, scene: _Scene, selected: dict, generated: dict, image: np.ndarray, number: int, write: Callable
    ) -> dict:
        """Paste the image of a sample, number 0, 1, ... of its frame, and write its files; its line."""
        start, key, new = time.monotonic(), generated["key"], scene.source.synthetic_frame(number)
        facts = _about(selected) | {"synthetic": new.name, "colour_match": self.options.colour_match}
        try:
            edited = self._edited(scene, selected, image)
            window, tries = self._window(scene, selected, key)
            files, found = self._focus(scene, new, edited, window)
            files[new.panorama_place] = encode_png(edited)
        except CannotFillError as error:
            return _timed(line_of("integrate", key, "skipped", _reason(error), **facts), start)
        except Exception as error:  # the other items go on
            return _timed(line_of("integrate", key, "failed", _reason(error), **facts), start)
        facts |= {"window": asdict(window), "n": window.multiple, "windows_tried": tries} | found
        facts |= {"inputs": scene.digests | generated["outputs"], "outputs": write(files)}
        return _timed(line_of("integrate", key, "ok", **facts), start)

    def _edited(self, scene: _Scene, selected: dict, image: np.ndarray) -> np.ndarray:
        """The whole frame with a patch on it; only the pixels of the instance change."""
        crop = Crop(**selected["crop"])
        patch, original = crop.back(image), crop.inside(scene.rgb)
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
        self, scene: _Scene, new: Frame, edited: np.ndarray, window: Window
    ) -> tuple[dict[str, bytes], dict]:
        """The files of a focus crop by path below OUT, and what its line says about its ground truth."""
        options = self.options
        size = focus_size(edited.shape[1])
        ground_truth = crop_ground_truth(
            scene.instance_ids,
            scene.objects,
            window,
            size,
            options.truth,
            options.fragments,
            options.min_pixels,
        )
        cut = edited[window.y0 : window.y0 + window.height, window.x0 : window.x0 + window.width]
        files = new.annotation(ground_truth.label_ids, ground_truth.instance_ids, ground_truth.objects)
        files[new.place(IMAGE_KIND, ".png")] = encode_png(resize(cut, *size))
        id_map = {str(old): new for old, new in sorted(ground_truth.id_map.items())}
        return files, {"id_map": id_map, "dropped": sorted(ground_truth.dropped)}


def focus_size(width: int) -> tuple[int, int]:
    """Width and height of the focus crops of frames of a width: 2:1 as their windows, whatever the frame."""
    return width, max(1, width // 2)


def crop_files(selected: dict) -> tuple[str, str]:
    """Paths below OUT of an instance's crop and mask, from its select line."""
    paths = sorted(selected["outputs"])  # "..._mask.png" comes before "..._rgb.png"
    return paths[1], paths[0]


def _about(selected: dict) -> dict:
    return {name: selected[name] for name in _ABOUT}


def _any_failed(lines: list[dict]) -> bool:
    return any(line["status"] == "failed" for line in lines)


def _timed(line: dict, start: float) -> dict:
    return line | {"seconds": round(time.monotonic() - start, 4)}


def _reason(error: Exception) -> str:
    """One line about what went wrong."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (InputError, CannotFillError)) else f"{type(error).__name__}: {text}"


def survey(options: SynthOptions, source: Source) -> list[int]:
    """Ids of the instances of a frame that pass the filters; none for a frame that can't be read."""
    try:
        ids = source.frame.read_instance_ids()
    except InputError:
        return []  # who repaints it reads it again and says so
    return [one.instance_id for one in candidates_of(ids, options)]
