"""One scene of an evaluation: objects placed on it by a model and by the baselines, its own placed again.

What comes of it is added to a `Collected`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from augment.placement.places import column, working_maps
from data.erasures import Erasure, erase_exactly
from data.fill import fill_hole
from data.geometry import boxes_of_theta
from data.instances import Instance, rides
from evaluation.baselines import Training, draw_boxes
from evaluation.collected import Collected
from evaluation.leak import small_labels
from evaluation.likelihood import collect_likelihood
from evaluation.metrics import REPLACEMENT_SAMPLES, EvaluatedScene, draw_masks, replacement_scores
from evaluation.shapes import mask_spread, shapes_of
from loader.cache import FrameMaps
from loader.pairs import SceneMaps
from model import WhereWhat
from support.errors import InputError
from support.seeds import normal
from where import Places


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled."""

    n_z: int  # objects in each scene for each seed
    batch_size: int  # objects made at once
    temperature: float
    min_height: float = 0.0  # of its boxes, in parts of the image; lower ones are drawn again


REDRAWN = 1000  # times at most


def place(
    collected: Collected,
    model: WhereWhat,
    places: Places,
    scene: SceneMaps,
    view: EvaluatedScene,
    content: FrameMaps,
    training: Training,
    sampling: Sampling,
) -> np.ndarray:
    """Place the model's and the baselines' objects on a scene, and take its real instances.

    Returns the model's compact masks (S,K,cy,cx) bool; training masks if it draws no shapes.
    """
    z = draw_tall_z(model, places, view.name, collected.seeds, sampling.n_z, "model", sampling.min_height)
    boxes, masks = sample_scene(model, places, scene, *z, sampling.batch_size)
    if not model.what.draws_shapes:
        masks = np.array(
            [draw_masks(training, view.name, seed, sampling.n_z, "model") for seed in collected.seeds]
        )
    collected.add_placed("model", view, model.target, boxes, masks)
    for method in training.baselines:
        boxes, chosen = draw_boxes(
            method, training, content.labels_small, view.name, collected.seeds, sampling.n_z
        )
        collected.add_placed(method, view, model.target, boxes, training.masks[chosen])
    collected.add_real(view, model.target, training)
    if view.camera and view.camera.assumed:
        collected.assumed.append(view.name)
    else:
        collected.cameras += view.camera is not None
    return masks > 0.5


def draw_z(
    model: WhereWhat, name: str, seeds: range, count: int, purpose: str
) -> tuple[np.ndarray, np.ndarray]:
    """Normal noise z_spatial (S,K,z_spatial) and z_appr (S,K,z_appr) float32 for the scene `name`."""
    sizes = (model.options.z_dim_spatial, model.options.z_dim_appr)
    drawn = [normal(seed, name, range(count), purpose, sum(sizes)) for seed in seeds]
    z_spatial, z_appr = np.split(np.array(drawn), [sizes[0]], axis=2)
    return z_spatial, z_appr


def draw_tall_z(
    model: WhereWhat,
    places: Places,
    name: str,
    seeds: range,
    count: int,
    purpose: str,
    min_height: float,
) -> tuple[np.ndarray, np.ndarray]:
    """`draw_z`, drawn again where `places` puts a box lower than min_height, in parts of the image.

    Raises InputError if the model places nothing that high.
    """
    z_spatial, z_appr = draw_z(model, name, seeds, count, purpose)
    if not min_height:
        return z_spatial, z_appr
    for attempt in range(1, REDRAWN + 1):
        boxes = boxes_on(places, z_spatial, model.device)
        low = boxes[..., 3] - boxes[..., 1] < min_height
        if not low.any():
            return z_spatial, z_appr
        for z, other in zip(
            (z_spatial, z_appr), draw_z(model, name, seeds, count, f"{purpose} {attempt}"), strict=True
        ):
            z[low] = other[low]
    raise InputError(
        f"--min_height {min_height:g}: {REDRAWN} places drawn in {name}, and some are still lower; give less"
    )


def sample_scene(
    model: WhereWhat,
    places: Places,
    scene: SceneMaps,
    z_spatial: np.ndarray,
    z_appr: np.ndarray,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The model's objects on a scene for z (S,K,z_dim), `batch_size` of them at once.

    places: the where module on that scene. Boxes (S,K,4) in fractions of the image and compact masks
    (S,K,cy,cx) in 0..1.
    """
    thetas, masks = [], []
    columns = [column(z, model.device).split(batch_size) for z in (z_spatial, z_appr)]
    for spatial, appr in zip(*columns, strict=True):
        theta = places.sample(spatial)
        big = (tensor.expand(len(theta), -1, -1) for tensor in (scene.labels_big, scene.ids_big))
        thetas.append(theta.cpu())
        masks.append(model.what.sample(*big, theta, appr)[:, 0].cpu())
    boxes = boxes_of_theta(torch.cat(thetas).numpy(), 1, 1)
    masks = torch.cat(masks).numpy()
    return boxes.reshape(*z_spatial.shape[:2], 4), masks.reshape(*z_spatial.shape[:2], *masks.shape[1:])


def collect_shapes(collected: Collected, view: EvaluatedScene, content: FrameMaps, masks: np.ndarray) -> None:
    """Keep the shapes of the model's masks (S,K,cy,cx) bool on a scene, and those of its real instances."""
    for seed in collected.seeds:
        collected.shapes[seed].append(shapes_of(masks[seed]))
    if view.real_ids:
        real = np.array([content.compact_of(instance_id) >= 128 for instance_id in view.real_ids])
        collected.real_shapes.append(shapes_of(real))


def disentangle(
    collected: Collected,
    model: WhereWhat,
    places: Places,
    scene: SceneMaps,
    view: EvaluatedScene,
    sampling: Sampling,
) -> None:
    """What changes with z_appr alone, and with z_spatial alone."""
    z_spatial, z_appr = draw_z(model, view.name, collected.seeds, sampling.n_z, "disentangle")
    fixed_spatial, fixed_appr = (np.repeat(z[:, :1], sampling.n_z, 1) for z in (z_spatial, z_appr))
    boxes, masks_appr = sample_scene(model, places, scene, fixed_spatial, z_appr, sampling.batch_size)
    _, masks_spatial = sample_scene(model, places, scene, z_spatial, fixed_appr, sampling.batch_size)
    moved = np.abs((boxes - boxes[:, :1]) * view.size).max((1, 2))
    collected.add("model", "box_change_z_appr", moved)
    for metric, masks in (("mask_spread", masks_appr), ("mask_spread_z_spatial", masks_spatial)):
        collected.add("model", metric, [mask_spread(m.reshape(len(m), -1) > 0.5) for m in masks])


@torch.no_grad()
def places_on_maps(
    model: WhereWhat, label_ids: np.ndarray, instance_ids: np.ndarray, temperature: float = 1.0
) -> Places:
    """The where module on full-size maps (H,W)."""
    return model.where.on(*working_maps(label_ids, instance_ids, model.maps.small, model.device), temperature)


@torch.no_grad()
def boxes_on(places: Places, z: np.ndarray, device: torch.device) -> np.ndarray:
    """Boxes (S,K,4), fractions of the image, for z_spatial (S,K,z_spatial), as in `model.sample`."""
    thetas = [places.sample(part) for part in column(z, device).split(64)]
    return boxes_of_theta(torch.cat(thetas).cpu().numpy(), 1, 1).reshape(*z.shape[:2], 4)


def replace_erased(
    collected: Collected,
    model: WhereWhat,
    view: EvaluatedScene,
    training: Training,
    erasures: dict[int, Erasure],
    sampling: Sampling,
) -> None:
    """Erase each real instance of a scene alone and place it again, by the model and by the baselines.

    erasures: those of the tree, by instance; where there is none, the hole is filled, a rider's together with
    that of the two-wheeler. A density of places tells how likely its true place is, too.
    """
    unit_of = {one: pair for pair in rides(view.instance_ids) for one in pair}
    for instance_id, true_box in zip(view.real_ids, view.real_boxes, strict=True):
        if instance_id in erasures:
            without = erase_exactly(view.label_ids, view.instance_ids, erasures[instance_id])
        else:
            hole = np.isin(view.instance_ids, unit_of.get(instance_id, (instance_id,)))
            without = fill_hole(view.label_ids, view.instance_ids, hole)
        collected.erased["exact" if instance_id in erasures else "filled"] += 1
        label_ids, instance_ids = without
        item, seeds = f"/{instance_id}", collected.seeds
        places = places_on_maps(model, label_ids, instance_ids, sampling.temperature)
        z_spatial, _ = draw_tall_z(
            model, places, view.name + item, seeds, REPLACEMENT_SAMPLES, "erased", sampling.min_height
        )
        boxes = {"model": boxes_on(places, z_spatial, model.device)}
        labels_small = small_labels(model, label_ids)
        if model.where.has_density:
            collect_likelihood(collected, model, training, labels_small, true_box)
        for method in training.baselines:
            boxes[method], _ = draw_boxes(
                method, training, labels_small, view.name, seeds, REPLACEMENT_SAMPLES, item
            )
        for method, placed in boxes.items():
            for metric, values in replacement_scores(placed, true_box, view).items():
                collected.add(method, metric, values)


@torch.no_grad()
def reconstruct(
    collected: Collected, model: WhereWhat, scene: SceneMaps, content: FrameMaps, instances: list[Instance]
) -> None:
    """The two supervised paths (docs/model.md#paths, 1 and 3) with mu, on real instances."""
    device = model.device
    if not model.what.draws_shapes:
        return
    for instance in instances:
        theta = torch.from_numpy(instance.theta)[None].to(device)
        compact = torch.from_numpy(content.compact_of(instance.instance_id) / np.float32(255))
        compact = compact[None, None].to(device)
        if not model.where.has_density:  # there z and theta determine each other
            theta_again = model.where.reconstruct(scene.labels_small, scene.ids_small, theta)
            collected.add("model", "theta_recon_l1", [float((theta_again - theta).abs().mean())])
        compact_again = model.what.reconstruct(scene.labels_big, scene.ids_big, theta, compact)
        collected.add("model", "mask_recon_l1", [float((compact_again - compact).abs().mean())])
