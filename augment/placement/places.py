"""Inserting objects into one image, and making its part of the new tree.

The noise of an attempt follows from (seed, name of the image, number of the object, number of the attempt)
alone, and the model is always asked for CANDIDATES places at once, so that the files are the same to the
last byte for any number of workers. The first candidate, in order, that passes all filters is taken.
"""

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from augment.compose import place_mask
from augment.paint.backends import CannotFillError
from augment.paint.blend import light_at
from augment.paint.choosing import Wish
from augment.paint.collection import grid_of
from augment.paint.painter import Painter, Rendering
from augment.placement.filters import Filters, Surroundings, box_rejection
from augment.placement.options import CLASSES_BY_NAME, Insertion, InsertOptions, read_region
from augment.placement.scene import EditedImage, contents, count_instances, new_frame, read_image
from data.frame import Frame
from data.geometry import METRIC_RANGES, HeightFit, MaskPatch, boxes_of_theta, fit_heights, too_few
from data.instances import PLACE_GRID, in_fractions, resize_nearest, usable_instances, usable_places
from data.labels import CHANNEL_OF_ID
from engine.records import WorkItem
from model import WhereWhat, load_model
from support.checkpoints import find_checkpoint
from support.errors import InputError, warn
from support.seeds import normal
from where import Places, check_temperature

CANDIDATES = 8  # places asked for at once; a constant, because rounding may depend on it
FIT_FRAMES = 200  # at most so many frames, evenly spaced, enter the fit of heights
STAGE = "insert"  # in the manifest


# ---- the model on one image ---------------------------------------------------------------------


def models_for(settings: InsertOptions) -> dict[str, tuple[Path, WhereWhat]]:
    """Checkpoint file and model of each class. Raises InputError if they do not fit what is asked for."""
    models = load_models(settings.checkpoint, settings.rendering)
    for name, (checkpoint, model) in models.items():
        check_temperature(model.where, settings.temperature)
        for option in ("z_spatial", "z_appr"):
            wanted, given = getattr(model.options, option.replace("z_", "z_dim_")), getattr(settings, option)
            if given and len(given) != wanted:
                raise InputError(f"--{option}: {len(given)} numbers, but the {name} model takes {wanted}")
        if settings.z_appr and not model.what.draws_shapes:
            raise InputError(f"--z_appr: {checkpoint} draws no shapes; leave it out")
    asked_for = {"target": settings.target or ()}
    asked_for["classes"] = () if settings.classes in CLASSES_BY_NAME else settings.classes
    for option, names in asked_for.items():
        for name in names:
            if name not in models:
                raise InputError(
                    f"--{option} {name}: no checkpoint for that class, only for {', '.join(models)}; add one"
                    " with --checkpoint"
                )
    return models


def load_models(
    paths: Iterable[str | Path], rendering: Rendering | None, device: torch.device | str = "cpu"
) -> dict[str, tuple[Path, WhereWhat]]:
    """Checkpoint file and model of each class; those of a checkpoint share their networks.

    Raises InputError if one can't be read, if two have the same class, or if one draws no shapes and the
    rendering needs them.
    """
    models: dict[str, tuple[Path, WhereWhat]] = {}
    for path in paths:
        checkpoint = find_checkpoint(path)
        model = load_model(checkpoint, device)
        if not model.what.draws_shapes and (rendering is None or rendering.name != "cutout"):
            raise InputError(
                f"--checkpoint {path}: knows places alone and draws no shapes; give --render cutout, which"
                " takes them from other images"
            )
        for name in (target.name for target in model.targets):
            if name in models:
                raise InputError(
                    f"--checkpoint {path}: a second one for {name}, beside {models[name][0]}; drop one"
                )
            models[name] = checkpoint, model.of_class(name)
    return models


def working_maps(
    label_ids: np.ndarray, instance_ids: np.ndarray, size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Channels (1,h,w) uint8 and ids (1,h,w) int32 of full-size maps at a working size (height, width)."""
    height, width = size
    labels = CHANNEL_OF_ID[resize_nearest(label_ids, width, height)]
    ids = resize_nearest(instance_ids, width, height).astype(np.int32)
    return torch.from_numpy(labels)[None].to(device), torch.from_numpy(ids)[None].to(device)


def column(z: np.ndarray, device: torch.device) -> Tensor:
    """Noise (...,z_dim) as the networks want it, one after another: (N,z_dim,1,1)."""
    rows = np.ascontiguousarray(z, np.float32).reshape(-1, z.shape[-1])
    return torch.from_numpy(rows)[:, :, None, None].to(device)


def training_boxes(frames: list[Frame], models: Collection[WhereWhat]) -> list[np.ndarray]:
    """Boxes (N,4) of what each model learns from on at most FIT_FRAMES of these frames.

    In fractions of the image size. Frames that can't be read are left out: they are named later.
    """
    boxes: list[list] = [[] for _ in models]
    for frame in spread(frames):
        try:
            maps = frame.read_maps()
        except InputError:
            continue
        for found, model in zip(boxes, models, strict=True):
            found += learnt_boxes(*maps, model)
    return [np.reshape(found, (-1, 4)) for found in boxes]


def spread(frames: list[Frame]) -> list[Frame]:
    """At most FIT_FRAMES of these frames, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FIT_FRAMES, len(frames))).astype(int))
    return [frames[index] for index in chosen.tolist()]


def learnt_boxes(label_ids: np.ndarray, instance_ids: np.ndarray, model: WhereWhat) -> list[tuple]:
    """x0, y0, x1, y1 of the instances on full-size maps that a model learns from, fractions of their size."""
    if not model.what.draws_shapes:
        (width, height), target = PLACE_GRID, model.target
        instances = usable_places(label_ids, instance_ids, target)
    else:
        (small_height, small_width), (height, width) = model.maps.small, model.maps.big
        channels = CHANNEL_OF_ID[resize_nearest(label_ids, small_width, small_height)]
        ids = resize_nearest(instance_ids, small_width, small_height)
        ids_big = resize_nearest(instance_ids, width, height)
        instances = usable_instances(channels, ids, ids_big, model.target, group_instances=False)
    return [in_fractions(one.box, width, height) for one in instances]


def needed_fits(frames: list[Frame], models: dict[str, WhereWhat], cameras: bool) -> dict[str, HeightFit]:
    """Fits of height against foot row on these frames, for classes whose height no camera tells.

    models: by class; cameras: whether all images have one. A class with too few instances has a warning
    instead.
    """
    needed = [name for name in models if not (cameras and name in METRIC_RANGES)]
    fits = {}
    for name, boxes in zip(needed, training_boxes(frames, [models[name] for name in needed]), strict=True):
        if reason := too_few(len(boxes)):
            warn(f"no plausible heights of {name}: {reason}; the filter 'height' is off without a camera")
        else:
            fits[name] = fit_heights(boxes)
    return fits


def count_classes(frames: list[Frame]) -> dict[str, int]:
    """Single instances of each class on at most FIT_FRAMES of these frames.

    Frames that can't be read are left out: they are named later.
    """
    counts: Counter[str] = Counter()
    for frame in spread(frames):
        with suppress(InputError):
            counts.update(count_instances(frame.read_instance_ids()))
    return dict(counts)


@dataclass(frozen=True)
class ImageForModel:
    """An image as a model sees it: what the filters look at, and the maps at the two working sizes."""

    model: WhereWhat
    around: Surroundings
    filters: Filters  # `Inserter.filters_for` it
    where: Places  # the where module on the small ones
    big: tuple[Tensor, Tensor]  # channels and ids


class Inserter:
    """The models of a run, ready to insert into one image after another."""

    def __init__(self, settings: Insertion):
        """Raises InputError if the checkpoints can't be used or the region's mask can't be read."""
        self.settings = settings
        self.device = torch.device(settings.device)
        models = load_models(settings.checkpoint, settings.rendering, self.device)
        self.models = {name: model for name, (_, model) in models.items()}
        self.region = read_region(settings.filters.region_mask)
        self.painter = Painter(settings.rendering, settings.seed) if settings.rendering else None

    def changed(self, painter: Painter | None, **settings) -> "Inserter":
        """One with the same models, another painter and other settings; nothing is loaded anew."""
        other = copy.copy(self)
        other.settings, other.painter = replace(self.settings, **settings), painter
        return other

    def edit(self, image: EditedImage, classes: tuple[str, ...]) -> list[dict]:
        """Insert objects of these classes, one after another; the manifest's record of each.

        Raises InputError if the region's mask is not of the image's size, or if the back end fails.
        """
        if self.region is not None and self.region.shape != image.label_ids.shape:
            raise InputError(
                f"{self.settings.filters.region_mask}: not of the size of the maps of {image.name}"
            )
        records = [self.insert(image, number, class_name) for number, class_name in enumerate(classes, 1)]
        for one in records:
            if one["status"] == "inserted":
                one |= image.seen(one["inserted_value"])
        return records

    def insert(self, image: EditedImage, number: int, class_name: str) -> dict:
        """Insert object `number` (1, 2, ...) into an image, if a candidate passes the filters; its record."""
        settings, view = self.settings, self.view(image, class_name)
        rejections: Counter[str] = Counter()
        record = {"object": number, "class": class_name, "status": "refused"}
        if image.camera and image.camera.assumed:
            record["camera_assumed"] = image.camera.assumed
        if image.new_id(class_name) is None:
            return record | {"refusals": {"no_free_id": 1}}
        for attempt in range(settings.attempts):
            row = attempt % CANDIDATES
            if row == 0:
                z_spatial, z_appr = self.noise(image.name, number, attempt, view.model)
                theta = view.where.sample(column(z_spatial, self.device))
            reason, facts = self.put(image, view, theta[row : row + 1], z_appr[row : row + 1])
            if reason:
                rejections[reason] += 1
                continue
            return record | {
                "status": "inserted",
                "attempt": attempt,
                "refusals": dict(sorted(rejections.items())),
                "seed": settings.seed,
                "temperature": settings.temperature,
                "z_spatial": z_spatial[row].tolist(),
                "z_appr": z_appr[row].tolist(),
                **facts,
            }
        return record | {"refusals": dict(sorted(rejections.items()))}

    def filters_for(self, image: EditedImage, class_name: str) -> Filters:
        """The filters, their least area that for the class's model and the image."""
        any_size = not self.models[class_name].what.draws_shapes
        min_area = self.settings.filters.area_limit(image.label_ids.size, any_size=any_size)
        return replace(self.settings.filters, min_area=min_area)

    def view(self, image: EditedImage, class_name: str) -> ImageForModel:
        """An image as the model of a class sees it now."""
        model, filters = self.models[class_name], self.filters_for(image, class_name)
        around = Surroundings(
            image.label_ids,
            image.instance_ids,
            image.camera,
            self.settings.fits.get(class_name),
            self.region,
            tuple(mask.box for mask in image.new_masks),
            not model.what.draws_shapes,
        )
        small, big = (
            working_maps(image.label_ids, image.instance_ids, size, self.device)
            for size in (model.maps.small, model.maps.big)
        )
        return ImageForModel(model, around, filters, model.where.on(*small, self.settings.temperature), big)

    def put(
        self, image: EditedImage, view: ImageForModel, theta: Tensor, z_appr: np.ndarray
    ) -> tuple[str | None, dict]:
        """Put an object on an image at the place theta (1,6), unless a filter rejects it.

        view: that of the image as it is; z_appr (1,z_dim) decides the shape. The class must have a free id.
        Returns the filter that rejects it or None, and the place, the scores and what is known of the object.
        """
        model, filters = view.model, view.filters
        height, width = image.label_ids.shape
        box = boxes_of_theta(theta.cpu().numpy(), width, height)[0]
        if reason := box_rejection(box, model.target, view.around, filters):
            return reason, {}
        place_score = float(view.where.score(theta)[0])
        if "score" in filters.rules and place_score < filters.min_score:
            return "score", {}
        compact = model.what.sample(*view.big, theta, column(z_appr, self.device))
        patch = place_mask(compact[0, 0].cpu().numpy(), box, width, height)
        if self.painter and self.painter.collections:
            reason, facts = self.put_cutout(image, view, box, patch)
        else:
            reason, facts = image.put(model.target.name, patch, filters, self.painter and self.painter.paint)
        if reason:
            return reason, {}
        return None, {
            "theta": theta[0].tolist(),
            "box": box.tolist(),
            "score_place": place_score,
            "score_shape": float(model.what.score(compact)[0]) if model.what.draws_shapes else None,
            **facts,
        }

    def put_cutout(
        self, image: EditedImage, view: ImageForModel, box: np.ndarray, drawn: MaskPatch
    ) -> tuple[str | None, dict]:
        """Put an instance as it is on an image, unless a filter rejects it: its own outline, box and mask.

        box (4,): its foot and height are kept; drawn: the mask that it should be like, all of the box if the
        model draws no shapes. Returns the filter that rejects it or None, and what is known of the object.
        """
        target, filters = view.model.target, view.filters
        wish = wish_of(image, target.name, box, drawn)
        if not view.model.what.draws_shapes:
            wish = replace(wish, silhouette=None)
        try:
            shown = self.painter.choose(image.name, len(image.new_ids) + 1, wish, set(image.shown))
        except CannotFillError:
            return "render", {}
        if shown.kind.height and image.camera:  # its own, so that it is not judged by that of the class
            filters = replace(filters, rules=tuple(rule for rule in filters.rules if rule != "height"))
        if reason := box_rejection(np.array(shown.placed.box, float), target, view.around, filters):
            return reason, {}
        return image.put_cutout(shown, filters, self.painter)

    def noise(self, name: str, number: int, attempt: int, model: WhereWhat) -> tuple[np.ndarray, np.ndarray]:
        """Normal noise z_spatial, z_appr (CANDIDATES,z_dim) float32 of the attempts from `attempt` on."""
        options, fixed = model.options, (self.settings.z_spatial, self.settings.z_appr)
        sizes = options.z_dim_spatial, options.z_dim_appr
        purpose = f"insert object {number}"
        attempts = range(attempt, attempt + CANDIDATES)
        drawn = normal(self.settings.seed, name, attempts, purpose, sum(sizes))
        z_spatial, z_appr = np.split(drawn, [sizes[0]], axis=1)
        for z, value in zip((z_spatial, z_appr), fixed, strict=True):
            if value is not None:
                z[:] = value
        return z_spatial, z_appr


def wish_of(image: EditedImage, class_name: str, box: np.ndarray, drawn: MaskPatch) -> Wish:
    """What is to be shown in a box (4,) of an image; drawn: the mask that it should be like."""
    height, width = image.label_ids.shape
    aspect, silhouette, light = (box[2] - box[0]) / (box[3] - box[1]), None, None
    if drawn.mask.any():
        x0, y0, x1, y1 = drawn.box
        aspect = (x1 - x0) / (y1 - y0)
        silhouette = grid_of(drawn.mask[y0 - drawn.y0 : y1 - drawn.y0, x0 - drawn.x0 : x1 - drawn.x0])
        light = light_at(image.rgb, drawn)
    frame = image.name
    return Wish(class_name, box, aspect, silhouette, light, image.camera, (width, height), frame)


# ---- its part of the tree -----------------------------------------------------------------------


class TreeInserter(Inserter):
    """What makes the images of a new tree: `engine.tree.Make`, for items whose task is a frame."""

    settings: InsertOptions

    def __init__(self, settings: InsertOptions):
        """Raises InputError too if there is nothing to paint with."""
        torch.set_num_threads(1)  # so that rounding is the same everywhere
        cv2.setNumThreads(1)
        super().__init__(settings)
        if self.painter:
            self.painter.load()

    def __call__(self, item: WorkItem, write: Callable) -> list[dict]:
        """Insert into one image and write its files; lines of its objects, and what its own line says.

        item.params: the "classes" of the objects to insert, in this order.
        """
        frame, settings = item.task, self.settings
        new = new_frame(frame, Path(settings.out), settings.split, settings.beside)
        try:
            image = read_image(frame, rgb=self.painter is not None, camera=settings.camera)
            before = count_instances(image.instance_ids)
            objects = self.edit(image, tuple(item.params["classes"]))
            # Where the source's frames lie beside them, frames without a new object would be there twice.
            files = {} if settings.beside and not image.new_ids else contents(image, frame, new)
        except InputError as error:
            return [{"status": "failed", "reason": str(error)}]
        lines = []
        for one in objects:
            about = {"stage": STAGE, "key": f"{frame.name}/{one['object']}", "image": new.name}
            about |= {"source": frame.label_path.name, "checkpoint": settings.hashes[one["class"]][:16]}
            lines.append(about | one)
        facts = {"before": before, "after": count_instances(image.instance_ids), "outputs": write(files)}
        return [*lines, facts]
