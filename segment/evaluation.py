"""Average precision of predicted instances: COCO's by pycocotools, Cityscapes' by the official program.

Predictions are measured on the maps of the data set, at their own size, whatever size the networks see.
"""

import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as program  # noqa: N813 (not a class)
import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

from data.coco import categories
from data.labels import TARGET_CLASSES
from data.official import kept_quiet, map_for_tools
from data.writer import encode_png
from segment.samples import CLASSES, GroundTruth
from support.files import write_atomic

MASK_LEVEL = 0.5  # of a predicted mask's probability
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # COCO's, pixels
_WHOLE = "all"


@dataclass(frozen=True)
class Predicted:
    """An instance that a segmenter sees."""

    number: int  # position in CLASSES
    score: float  # 0..1
    code: dict  # run-length code of its mask at the size of the annotation


@torch.inference_mode()
def detect(model: MaskRCNN, images: list[Tensor], sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """What a model in eval mode sees on images (3,h,w) in 0..1, on its device.

    For each: boxes (N,4), labels (N), scores (N), masks (N,H,W) bool, at the sizes (H,W) asked for.
    """
    batch, _ = model.transform(images)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    found, _ = model.roi_heads(features, proposals, batch.image_sizes)
    for one, seen_at, size in zip(found, batch.image_sizes, sizes, strict=True):
        one["boxes"] = resize_boxes(one["boxes"], seen_at, size)
        one["masks"] = _pasted(one["masks"], one["boxes"], size)
    return found


def _pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (N,1,h,w) of boxes (N,4) at a size (H,W): (N,H,W) bool.

    One at a time: all at once take 8 bytes a pixel for each, on 2048x1024 1.7 GB for a hundred.
    """
    result = torch.empty((len(masks), *size), dtype=torch.bool, device=masks.device)
    for n in range(len(masks)):
        result[n] = paste_masks_in_image(masks[n : n + 1], boxes[n : n + 1], size)[0, 0] >= MASK_LEVEL
    return result


def predict(
    model: MaskRCNN, ground_truths: list[GroundTruth], device: torch.device, batch: int = 4
) -> Iterator[list[Predicted]]:
    """The instances that a model sees on each frame, in order."""
    model.eval()
    for start in range(0, len(ground_truths), batch):
        part = ground_truths[start : start + batch]
        images = [ground_truth.image.to(device).float() / 255 for ground_truth in part]
        seen = detect(model, images, [ground_truth.size for ground_truth in part])
        for one in seen:
            masks = one["masks"].byte().cpu().numpy()
            codes = [rle.encode(np.asfortranarray(mask)) for mask in masks]
            found = zip(one["labels"].tolist(), one["scores"].tolist(), codes, strict=True)
            yield [Predicted(*facts) for facts in found if rle.area(facts[2])]


# ---- COCO ---------------------------------------------------------------------------------------


def coco_metrics(
    ground_truths: list[GroundTruth], predictions: list[list[Predicted]], least_area: int = 0
) -> dict:
    """AP, AP50, AP75 over all classes that occur, the same for each class, and AP by size, by pycocotools.

    0..1, None where there is nothing to find. least_area: instances with fewer pixels count neither as missed
    nor as found.
    """
    images = [{"id": n, "height": t.size[0], "width": t.size[1]} for n, t in enumerate(ground_truths, 1)]
    true_rows = [one | {"image_id": n} for n, t in enumerate(ground_truths, 1) for one in t.annotations]
    found_rows = [
        {
            "image_id": n,
            "category_id": one.number,
            "score": one.score,
            "segmentation": one.code,
            "area": int(rle.area(one.code)),
            "bbox": rle.toBbox(one.code).tolist(),
            "iscrowd": 0,
        }
        for n, found in enumerate(predictions, 1)
        for one in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(images, true_rows), _coco(images, found_rows), "segm")
        ranges = {_WHOLE: (least_area, 1e10), **SIZES}
        evaluation.params.areaRng = [list(limits) for limits in ranges.values()]
        evaluation.params.areaRngLbl = list(ranges)
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds 0.5..0.95, recalls, classes, ranges, most detections); -1 where a class does not occur
    precision = evaluation.eval["precision"][..., -1]
    return {
        **_at_thresholds(precision[..., 0]),
        "by_size": {name: _mean(precision[..., n]) for n, name in enumerate(ranges) if name != _WHOLE},
        "classes": {name: _at_thresholds(precision[:, :, n, 0]) for n, name in enumerate(TARGET_CLASSES)},
    }


def _coco(images: list[dict], rows: list[dict]) -> COCO:
    data = COCO()
    annotations = [row | {"id": number} for number, row in enumerate(rows, 1)]
    data.dataset = {"images": images, "annotations": annotations, "categories": categories()}
    data.createIndex()
    return data


def _at_thresholds(precision: np.ndarray) -> dict[str, float | None]:
    return {"AP": _mean(precision), "AP50": _mean(precision[0]), "AP75": _mean(precision[5])}


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


# ---- Cityscapes ---------------------------------------------------------------------------------


def cityscapes_metrics(
    ground_truths: list[GroundTruth], predictions: list[list[Predicted]], folder: Path
) -> dict:
    """AP and AP50 over all classes that occur and for each, by the official Cityscapes program.

    Its prediction files are written below `folder`: NAME_pred.txt with a line for each mask, masks in NAME/.
    Instances below 100 pixels count neither way, as always with that program. 0..1, None as above.
    """
    pairs = zip(ground_truths, predictions, strict=True)
    files = [write_prediction(folder, ground_truth, found) for ground_truth, found in pairs]
    maps = [str(map_for_tools(ground_truth.frame, folder)) for ground_truth in ground_truths]
    settings = copy.copy(program.args)
    settings.predictionPath = str(folder.absolute())
    settings.quiet = True
    program.setInstanceLabels(settings)
    # The program asks for a function that newer NumPy versions only have under its other name.
    renamed = patch.object(np, "in1d", np.isin, create=True)
    with kept_quiet("official evaluation"), np.errstate(all="ignore"), renamed:
        instances = program.instances2dict(maps, False)
        matches = program.matchGtWithPreds(files, maps, instances, settings)
        averages = program.computeAverages(program.evaluateMatches(matches, settings), settings)
    return {
        "AP": _number(averages["allAp"]),
        "AP50": _number(averages["allAp50%"]),
        "classes": {
            name: {"AP": _number(one["ap"]), "AP50": _number(one["ap50%"])}
            for name, one in averages["classes"].items()
        },
    }


def write_prediction(folder: Path, ground_truth: GroundTruth, found: list[Predicted]) -> str:
    """Write the official prediction files of a frame; the path of its text file."""
    name = ground_truth.frame.name.replace(" ", "%20")  # the program takes lines apart at blanks
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, one in enumerate(found):
        mask = f"{name}/{number:03d}.png"
        write_atomic(folder / mask, encode_png(rle.decode(one.code) * 255))
        lines.append(f"{mask} {TARGET_CLASSES[CLASSES[one.number]].label_id} {one.score:.6f}\n")
    path = folder / f"{name}_pred.txt"
    write_atomic(path, "".join(lines).encode())
    return str(path.absolute())


def _number(value) -> float | None:
    return None if np.isnan(value) else float(value)
