"""From scenes and placed objects to metrics: what `scripts/evaluate.py` measures.

What each metric is: docs/evaluation.md#definitions. An EvaluatedScene is one scene at the data set's own
resolution; `measure` judges objects placed on it one by one; what all scenes gave becomes metrics in
`evaluation.collected`. Boxes are in fractions of the image size (x0, y0, x1, y1), so that scenes of any size
can be put together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from augment.compose import contact_rows, occluded_part, place_mask
from augment.placement.filters import Filters, overlaps
from data.camera import Camera
from data.geometry import (
    METRIC_RANGES,
    HeightFit,
    box_iou,
    height_residuals,
    inside_image,
    metric_heights,
    place_features,
    sliced_distance,
    supported,
    supporting_pixels,
)
from data.instances import bounding_box, in_fractions
from data.labels import TargetClass
from evaluation.baselines import Training
from evaluation.shapes import ShapeFeature, frechet_distance, nearest_iou, precision_recall
from loader.cache import WorkingMaps
from support.seeds import generator

OVERLAP_LIMIT = Filters.max_overlap  # an object overlaps if more than this fraction of its mask does
REPLACEMENT_SAMPLES = 10  # placements for each erased instance
REPLACEMENT_RANKS = (1, 5, 10)  # k of IoU@k
SHAPE_SAMPLES = 1000  # at most so many shapes are compared in precision, recall and Frechet distance


# ---- one scene ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluatedScene:
    """One scene at its own resolution H x W, prepared for judging placements of one class."""

    name: str
    label_ids: np.ndarray  # (H,W) uint8
    instance_ids: np.ndarray  # (H,W) uint16
    supporting: np.ndarray  # (H,W) bool, `supporting_pixels`
    feet: np.ndarray  # (H,W) int32, `contact_rows`
    camera: Camera | None
    real_ids: tuple[int, ...]  # usable instances of the class
    real_boxes: np.ndarray  # (R,4) float64 their tight boxes, fractions of the image size

    @property
    def size(self) -> np.ndarray:
        """W, H, W, H: what turns fractions into pixels."""
        height, width = self.label_ids.shape
        return np.array([width, height, width, height], float)


def read_views(
    maps: WorkingMaps, index: int, targets: Sequence[TargetClass], camera: str = "auto"
) -> Iterator[EvaluatedScene]:
    """Scene `index` of a split, from its source files, for each class; camera: one of CAMERA_CHOICES.

    Raises InputError if a file is bad.
    """
    frame = maps.frames[index]
    label_ids, instance_ids = frame.read_maps()
    height, width = label_ids.shape
    feet, of_frame = contact_rows(label_ids, instance_ids), frame.camera(width, height, camera)
    supporting: dict[tuple[str, ...], np.ndarray] = {}  # several classes stand on the same
    for target in targets:
        if target.support not in supporting:
            supporting[target.support] = supporting_pixels(label_ids, instance_ids, target.support)
        real_ids = tuple(instance.instance_id for instance in maps.instances(index, target.name))
        real_boxes = [in_fractions(bounding_box(instance_ids == one), width, height) for one in real_ids]
        yield EvaluatedScene(
            frame.name,
            label_ids,
            instance_ids,
            supporting[target.support],
            feet,
            of_frame,
            real_ids,
            np.reshape(real_boxes, (-1, 4)),
        )


Measures = dict[str, np.ndarray]  # one row for each placed object: box (n,4), and (n,) of each judgement


def measure(
    view: EvaluatedScene,
    target: TargetClass,
    boxes: np.ndarray,
    masks: np.ndarray,
    own_ids: tuple[int, ...] = (),
) -> Measures:
    """Judge objects placed on a scene: boxes (n,4) in fractions of the image, compact masks (n,cy,cx) in
    0..1.

    own_ids: for real instances, which thing of the map (n) each one is; it does not overlap itself. Returns
    box, support, in_range (0 or 1, NaN without camera or range), metres (NaN without camera or above the
    horizon), front and any (see `overlap`), inside.
    """
    pixels = boxes * view.size
    metres, in_range = np.full(len(boxes), np.nan), np.full(len(boxes), np.nan)
    if view.camera and target.name in METRIC_RANGES:
        low, high = METRIC_RANGES[target.name]
        metres = metric_heights(pixels, view.camera)
        in_range = ((metres >= low) & (metres <= high)).astype(float)
    own_ids = own_ids or (-1,) * len(boxes)
    fractions = [overlap(view, mask, box, own) for mask, box, own in zip(masks, pixels, own_ids, strict=True)]
    front, anything = np.reshape(fractions, (-1, 2)).T
    return {
        "box": boxes,
        "support": supported(pixels, view.supporting),
        "in_range": in_range,
        "metres": metres,
        "front": front,
        "any": anything,
        "inside": inside_image(pixels, *view.size[:2]),
    }


def overlap(
    view: EvaluatedScene, compact: np.ndarray, box: np.ndarray, own_id: int = -1
) -> tuple[float, float]:
    """Fractions of a compact mask in a box (4,), pixels, behind what stands in front, and on what stands.

    As insertion puts it there, and judges it. The thing `own_id` is left out; 0 for a mask outside the image.
    """
    height, width = view.label_ids.shape
    patch = place_mask(compact, box, width, height)
    if not patch.mask.any():
        return 0.0, 0.0
    feet = view.feet if own_id < 0 else np.where(view.instance_ids == own_id, 0, view.feet)
    return overlaps(patch, occluded_part(patch, feet), feet)


def join(parts: list[Measures]) -> Measures:
    """Measures of several scenes one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# ---- metrics ------------------------------------------------------------------------------------


def placement_metrics(measures: Measures, fit: HeightFit | None) -> dict[str, float]:
    """Metrics of the objects of one method and seed, by the names in `evaluation.report.METRICS`.

    Without a fit those that need it are left out.
    """
    metrics = {
        "support_rate": measures["support"].mean(),
        "inside_rate": measures["inside"].mean(),
        "overlap_rate": (measures["front"] > OVERLAP_LIMIT).mean(),
        "overlap_any_rate": (measures["any"] > OVERLAP_LIMIT).mean(),
    }
    if fit:
        residuals = height_residuals(measures["box"], fit)
        in_band = (residuals >= fit.low) & (residuals <= fit.high)
        metrics["height_residual"] = np.median(np.abs(residuals))
        metrics["height_band_rate"] = in_band.mean()
    judged = np.isfinite(measures["in_range"])
    if judged.any():
        metrics["metric_height_rate"] = measures["in_range"][judged].mean()
        metres = measures["metres"][np.isfinite(measures["metres"])]
        if metres.size:
            for percent in (25, 50, 75):
                metrics[f"metric_height_q{percent}"] = np.percentile(metres, percent)
        metrics["plausible_rate"] = (measures["support"] * measures["in_range"])[judged].mean()
    elif fit:
        metrics["plausible_rate"] = (measures["support"] & in_band).mean()
    return {name: float(value) for name, value in metrics.items()}


def placement_distances(samples: dict[str, np.ndarray], real: np.ndarray, seed: int) -> dict[str, float]:
    """Sliced 2-Wasserstein distance of the boxes (n,4) of each method to real boxes (R,4).

    Boxes in fractions of the image. The real ones are halved at random; each method gives as many boxes as a
    half holds and is compared to the first half. So is the second half, as "real": the floor. Empty for
    fewer than four real boxes.
    """
    if len(real) < 4:
        return {}
    rng = generator(seed, "", 0, "distance")
    features = place_features(real)
    scale = np.maximum(features.std(0), 1e-6)
    count = distance_sample(len(real), *(len(boxes) for boxes in samples.values()))
    order = rng.permutation(len(real))
    first_half, second_half = features[order[:count]], features[order[count : 2 * count]]
    distances = {"real": sliced_distance(first_half / scale, second_half / scale)}
    for method, boxes in samples.items():
        chosen = place_features(boxes[rng.permutation(len(boxes))[:count]])
        distances[method] = sliced_distance(first_half / scale, chosen / scale)
    return distances


def distance_sample(real: int, *placed: int) -> int:
    """Boxes in each sample of the placement distance, given the numbers of real and of placed ones."""
    return min(real // 2, *placed)


def shape_metrics(
    made: np.ndarray, real: np.ndarray, training: np.ndarray, feature: ShapeFeature, seed: int
) -> dict[str, dict[str, float]]:
    """Metrics of generated ("model") and of held-out ("real") shapes (n,1024) against training shapes.

    All three samples are cut at random to the size of the smallest, at most 1,000; the nearest training
    shape is looked for among all.
    """
    rng = generator(seed, "", 0, "shapes")
    count = shape_sample(len(made), len(real), len(training))
    made, real, reference = (group[rng.permutation(len(group))[:count]] for group in (made, real, training))
    metrics = {}
    for method, shapes in (("model", made), ("real", real)):
        precision, recall = precision_recall(feature(reference), feature(shapes))
        metrics[method] = {
            "shape_precision": precision,
            "shape_recall": recall,
            "shape_frechet": frechet_distance(feature(reference), feature(shapes)),
            "shape_nn_iou": float(nearest_iou(shapes, training).mean()),
        }
    return metrics


def shape_sample(made: int, real: int, training: int) -> int:
    """Shapes in each sample that is compared, given the numbers of all three kinds."""
    return min(made, real, training, SHAPE_SAMPLES)


def replacement_scores(
    boxes: np.ndarray, true_box: np.ndarray, view: EvaluatedScene
) -> dict[str, np.ndarray]:
    """Scores (S,) of placements (S,K,4), K >= 10, for one erased instance with its box (4,).

    Boxes in fractions of the image. The centre error is over the image width; it and the height ratio are
    those of the first placement.
    """
    ious = box_iou(boxes, true_box)
    best = {k: ious[:, :k].max(1) for k in REPLACEMENT_RANKS}
    first = boxes[:, 0]
    shift = (first[:, :2] + first[:, 2:] - true_box[:2] - true_box[2:]) / 2 * view.size[:2]
    heights = np.maximum(first[:, 3] - first[:, 1], 1e-6)
    return {
        **{f"iou_at_{k}": best[k] for k in REPLACEMENT_RANKS},
        **{f"iou50_at_{k}": (best[k] >= 0.5).astype(float) for k in REPLACEMENT_RANKS},
        "centre_error": np.linalg.norm(shift, axis=1) / view.size[0],
        "log_height_ratio": np.abs(np.log(heights / (true_box[3] - true_box[1]))),
    }


def draw_masks(training: Training, name: str, seed: int, count: int, method: str) -> np.ndarray:
    """Training masks (count,cy,cx) bool to stretch into boxes of the scene `name`, drawn at random.

    For a model that draws no shapes, and for real instances: one's own mask overlaps nothing, whatever stands
    before it; a whole shape in its box shows how much real boxes overlap, and compares with other methods.
    """
    picks = [
        int(generator(seed, name, number, method).integers(len(training.masks))) for number in range(count)
    ]
    return training.masks[picks]
