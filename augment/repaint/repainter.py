"""What is made of one frame: its instances chosen, cut out, repainted, pasted and cropped out again.

What goes wrong with an instance or a sample becomes a line with status "failed"; only what is wrong with all,
as a back end that can't be made or a file that can't be written, is an error of the whole run.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
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
    """A source frame as it is read once for all its instances, and what writes the files made of it."""

    source: Source
    rgb: np.ndarray  # (H,W,3) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    inputs: Inputs
    write: Callable


@dataclass(frozen=True)
class _Sample:
    """An instance with other pixels."""

    selected: dict  # the line of the instance in the stage select
    line: dict  # its own in the stage generate
    image: np.ndarray | None  # (h,w,3) uint8, the crop repainted; None if that failed


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
        return load_prompts(self.options.prompts)

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
        scene = _Scene(source, rgb, ids, inputs, write)
        cuts = [self._cut(scene, one, facts["inputs"]) for one in chosen]
        selected = [*(cut.line for cut in cuts), _timed(own | facts, start)]
        samples = self._generate(scene, cuts)
        generated, integrated = [one.line for one in samples], self._integrate(scene, samples)
        own = {"stage": "generate", "key": frame.key, "status": "ok", "sources": {}, "asked": None}
        return [
            *selected,
            *generated,
            own | (_FAILED if _any_failed(generated) else {}),
            *integrated,
            _FAILED if _any_failed(integrated) else {},
        ]

    # ---- select ---------------------------------------------------------------------------------

    def _cut(self, scene: _Scene, one: Candidate, digests: dict[str, str]) -> _Cut:
        """Cut out an instance and write its files; digests: of what was read for that."""
        start, frame, ids = time.monotonic(), scene.source.frame, scene.instance_ids
        crop = context_crop(one.box, ids.shape[::-1], self.options.margin, self.options.min_crop)
        mask, cut = crop.cut(ids == one.instance_id, mirror=False), crop.cut(scene.rgb)
        stem = f"work/select/{frame.city}/{frame.name}_{one.instance_id}"
        images = {"rgb": cut, "mask": mask.view(np.uint8) * 255}
        outputs = scene.write({f"{stem}_{name}.png": encode_png(image) for name, image in images.items()})
        facts = {"class": one.class_name, "instance_id": one.instance_id, "area": one.area, "bbox": one.box}
        facts |= {"crop": asdict(crop), "inputs": digests, "outputs": outputs}
        line = line_of("select", instance_key(frame, one.instance_id), "ok", **facts)
        return _Cut(_timed(line, start), cut, mask)

    # ---- generate -------------------------------------------------------------------------------

    def _generate(self, scene: _Scene, cuts: list[_Cut]) -> list[_Sample]:
        """Repaint instances; all their samples, after their files are written."""
        _ = self.backend, self.prompts  # made now: what is wrong with them is wrong with every item
        start, asked = time.monotonic(), [self._ask(scene.source.frame, cut) for cut in cuts]
        results = fill_all(self.backend, [request for _, request in asked])
        seconds = round((time.monotonic() - start) / (len(asked) * self.options.samples), 4)
        return [
            _Sample(cut.line, line | {"seconds": seconds}, image)
            for cut, (facts, request), result in zip(cuts, asked, results, strict=True)
            for line, image in self._samples(scene, cut.line, facts, request.prompts, result)
        ]

    def _ask(self, frame: Frame, cut: _Cut) -> tuple[dict, Request]:
        """What all lines of an instance's samples say, and the request."""
        options, backend, selected = self.options, self.backend, cut.line
        instance_id, key = selected["instance_id"], selected["key"]
        seed = seed_of(options.seed, "prompt", key)
        prompts = draw_prompts(selected["class"], seed, self.prompts, options.style, options.samples)
        facts = _about(selected) | {"seed": seed_of(options.seed, "generate", key)}
        facts["negative"] = self.prompts.negative
        facts["backend"] = {"name": backend.name, "version": backend.version} | backend.details
        facts["inputs"] = dict(sorted(selected["outputs"].items(), reverse=True))  # the crop, then its mask
        about = (selected["class"], f"{frame.name}/{instance_id}", prompts, facts["negative"], facts["seed"])
        return facts, Request(cut.rgb, cut.mask, *about)

    def _samples(
        self,
        scene: _Scene,
        selected: dict,
        facts: dict,
        prompts: tuple[str, ...],
        result: list[np.ndarray] | Exception,
    ) -> Iterator[tuple[dict, np.ndarray | None]]:
        """Line and image of each of an instance's samples."""
        frame, instance_id = scene.source.frame, selected["instance_id"]
        for sample, prompt in enumerate(prompts, 1):
            key = sample_key(frame, instance_id, sample)
            if isinstance(result, Exception):
                status = "skipped" if isinstance(result, CannotFillError) else "failed"
                yield line_of("generate", key, status, _reason(result), prompt=prompt, **facts), None
            else:
                path = f"work/generate/{frame.city}/{frame.name}_{instance_id}_{sample:03d}.png"
                image = result[sample - 1]
                outputs = scene.write({path: encode_png(image)})
                yield line_of("generate", key, "ok", prompt=prompt, outputs=outputs, **facts), image

    # ---- integrate ------------------------------------------------------------------------------

    def _integrate(self, scene: _Scene, samples: list[_Sample]) -> list[dict]:
        """Paste samples into their frame and crop them out again; a line for each."""
        objects, problem = None, ""
        try:
            objects = scene.inputs.objects(scene.source.frame, scene.instance_ids.shape)
        except InputError as error:
            problem = _reason(error)
        lines = []
        for number, sample in enumerate(samples):
            key, status = sample.line["key"], sample.line["status"]
            if sample.image is None:
                reason = f"generate {status}: {sample.line['reason']}"
                lines.append(line_of("integrate", key, "skipped", reason))
            elif problem:
                lines.append(line_of("integrate", key, "failed", problem, **_about(sample.selected)))
            else:
                lines.append(self._put(scene, objects, sample, number))
        return lines

    def _put(
        self, scene: _Scene, objects: list[LabelledPolygon] | None, sample: _Sample, number: int
    ) -> dict:
        """Paste a sample, number 0, 1, ... of its frame, and write its files; its line."""
        start, key, new = time.monotonic(), sample.line["key"], scene.source.synthetic_frame(number)
        facts = _about(sample.selected) | {"synthetic": new.name, "colour_match": self.options.colour_match}
        try:
            edited = self._edited(scene, sample)
            window, tries = self._window(scene, sample)
            files, found = self._focus(scene, objects, new, edited, window)
            files[new.panorama_place] = encode_png(edited)
        except CannotFillError as error:
            return _timed(line_of("integrate", key, "skipped", _reason(error), **facts), start)
        except Exception as error:  # the other items go on
            return _timed(line_of("integrate", key, "failed", _reason(error), **facts), start)
        facts |= {"window": asdict(window), "n": window.multiple, "windows_tried": tries} | found
        facts |= {"inputs": scene.inputs.digests | sample.line["outputs"], "outputs": scene.write(files)}
        return _timed(line_of("integrate", key, "ok", **facts), start)

    def _edited(self, scene: _Scene, sample: _Sample) -> np.ndarray:
        """The whole frame with a sample on it; only the pixels of the instance change."""
        crop = Crop(**sample.selected["crop"])
        patch, original = crop.back(sample.image), crop.inside(scene.rgb)
        mask = crop.inside(scene.instance_ids) == sample.selected["instance_id"]
        patch = match_colours(patch, original, mask, self.options.colour_match)
        return paste(scene.rgb, patch, mask, crop.box, self.options.feather)

    def _window(self, scene: _Scene, sample: _Sample) -> tuple[Window, int]:
        """The window of a focus crop, and how many were drawn. Raises CannotFillError if there is none."""
        options, size = self.options, scene.instance_ids.shape[::-1]
        rng = np.random.default_rng(seed_of(options.seed, "integrate", sample.line["key"]))
        for tried in count(1):
            window = draw_window(tuple(sample.selected["bbox"]), size, rng)
            if window is None:
                raise CannotFillError(f"no 2:1 window of a {size[0]}x{size[1]} frame holds the instance")
            if options.fragments != "resample" or tried > RESAMPLES:
                return window, tried
            if not has_fragment(scene.instance_ids, window, options.min_pixels):
                return window, tried

    def _focus(
        self,
        scene: _Scene,
        objects: list[LabelledPolygon] | None,
        new: Frame,
        edited: np.ndarray,
        window: Window,
    ) -> tuple[dict[str, bytes], dict]:
        """The files of a focus crop by path below OUT, and what its line says about its ground truth."""
        options, width = self.options, edited.shape[1]
        size = width, max(1, width // 2)  # 2:1 as its window, whatever the frame
        rules = options.truth, options.fragments, options.min_pixels
        ground_truth = crop_ground_truth(scene.instance_ids, objects, window, size, *rules)
        files = new.annotation(ground_truth.label_ids, ground_truth.instance_ids, ground_truth.objects)
        files[new.place(IMAGE_KIND, ".png")] = encode_png(resize(window.cut(edited), *size))
        id_map = {str(old): new for old, new in sorted(ground_truth.id_map.items())}
        return files, {"id_map": id_map, "dropped": sorted(ground_truth.dropped)}


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
