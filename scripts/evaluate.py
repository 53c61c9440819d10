"""python -m scripts.evaluate --checkpoint runs/where_what --db_root datasets/cityscapes

Measures how plausible and diverse the placements of a trained model are, beside the baselines uniform,
prior and nearest and beside real held-out instances. Writes evaluation.json, evaluation.md and plots.
"""

import dataclasses
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from augment.placement.places import column, working_maps
from data.camera import assumptions, camera_setting
from data.erasures import Erasure, erase_exactly
from data.fill import fill_hole
from data.geometry import boxes_of_theta, fit_heights
from data.instances import Instance
from distributed import choose_device
from evaluation.baselines import Training, draw_boxes, read_training
from evaluation.leak import absent_metrics, collect_leak, small_labels
from evaluation.metrics import (
    REPLACEMENT_SAMPLES,
    Collected,
    EvaluatedScene,
    distance_sample,
    read_view,
    replacement_scores,
    shape_sample,
    summarise,
)
from evaluation.report import erasing, markdown, of_temperature, remarks, table, write_plots
from evaluation.shapes import mask_spread, shapes_of
from loader.cache import FrameMaps, WorkingMaps, prepare
from loader.pairs import SceneMaps
from model import WhereWhat, load_model
from support.checkpoints import PACKED, find_checkpoint
from support.errors import InputError, Parser, run_program
from support.files import write_atomic
from support.progress import progress_bar
from support.seeds import normal
from support.settings import add_flags, checked, setting
from where import Places, check_temperature

RESULT = "evaluation.json"
QUICK_N_Z = 4


@dataclass(frozen=True)
class EvaluateOptions:
    """One evaluation; None and "" where nothing was asked for."""

    checkpoint: str = setting(
        help="run folder (its newest checkpoint), state-*.pt, or builtin:person",
        read=str,
        flag={"required": True},
    )
    db_root: str = setting(
        help="folder that holds gtFine/ and, if any, camera/", read=str, flag={"required": True}
    )
    camera: str = camera_setting()
    split: str = setting("val", "scenes to place objects in")
    train_split: str = setting("train", "where baselines come from")
    n_z: int | None = setting(
        None, f"objects in each scene for each seed (default 10; {QUICK_N_Z} with --quick)", read=int, min=2
    )
    seeds: int = setting(5, "number of seeds: 0, 1, 2, ...", min=1)
    out: str = setting("", "folder for the results (default RUN/evaluation)")
    temperature: float = setting(
        1.0, "of the density of places; below 1 gathers places where it is high, 1: as learnt"
    )
    scenes: int | None = setting(None, "the first so many scenes of the split (default all)", read=int, min=1)
    cache_dir: str = setting("", "folder of working-size maps (default that of the training)")
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
    batch_size: int = setting(8, "objects made at once; changes rounding at most", min=1)
    quick: bool = setting(False, "placement metrics only: no re-placement, shapes, reconstruction")
    overwrite: bool = setting(False, "replace an evaluation that lies in --out")


def parser() -> Parser:
    """The command line."""
    parser = Parser("python -m scripts.evaluate", "Measure placements.")
    add_flags(parser, EvaluateOptions)
    return parser


def parse(arguments: list[str] | None = None) -> EvaluateOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    options = checked(EvaluateOptions(**vars(parser().parse_args(arguments))))
    return options if options.n_z else dataclasses.replace(options, n_z=QUICK_N_Z if options.quick else 10)


def evaluate(settings: EvaluateOptions) -> dict:
    """Measure, write the results, and return what evaluation.json holds."""
    # ---- model and data
    checkpoint = find_checkpoint(settings.checkpoint)
    device = choose_device(settings.device)
    model = load_model(checkpoint, device)
    check_temperature(model.where, settings.temperature)
    target = model.target
    options = dataclasses.replace(
        model.options,
        db_root=settings.db_root,
        cache_dir=settings.cache_dir or model.options.cache_dir,
    )
    if not settings.out and checkpoint.suffix == PACKED:
        raise InputError(f"--checkpoint {settings.checkpoint}: belongs to no run folder; give --out")
    out = Path(settings.out) if settings.out else run_folder(checkpoint) / "evaluation"
    if (out / RESULT).exists() and not settings.overwrite:
        raise InputError(f"{out / RESULT} exists: give --overwrite to replace it, or another --out")
    maps, training_maps = prepare(options, settings.split), prepare(options, settings.train_split)
    count = min(settings.scenes or len(maps), len(maps))
    instances = sum(len(maps.instances(index, target.name)) for index in range(count))
    if not instances:
        raise InputError(
            f"{settings.db_root}: none of {count} images of {settings.split} holds a usable {target.name};"
            " choose another --split or --db_root, or more --scenes"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # rather now than after minutes of work
            pass
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error.strerror}); choose another") from None
    training = read_training(training_maps, target.name)
    fit = fit_heights(training.boxes)

    # ---- scenes
    collected = Collected(settings.seeds)
    for index in progress_bar(range(count), "scenes", unit="scene"):
        view, content = read_view(maps, index, target, settings.camera), maps.load(index)
        scene = scene_of(content, device)
        places = model.where.on(scene.labels_small, scene.ids_small, settings.temperature)
        masks = place(collected, model, places, scene, view, content, training, settings)
        if not settings.quick:
            collect_shapes(collected, view, content, masks)
            disentangle(collected, model, places, scene, view, settings)
            erasures = maps.frames[index].read_erasures()
            replace_erased(collected, model, view, training, erasures, settings.temperature)
            if model.where.has_density:
                collect_leak(collected, model, view, erasures, settings.temperature)
            reconstruct(collected, model, scene, content, maps.instances(index, target.name))

    # ---- metrics
    if not settings.quick:
        collected.absent = absent_metrics(model, collected)
    samples = count * settings.n_z
    results, boxes = summarise(collected, training, fit, samples)
    sample_sizes = {"distance": distance_sample(instances, samples)}
    if not settings.quick:
        if training.baselines:
            sample_sizes["shapes"] = shape_sample(samples, instances, len(training.boxes))
        sample_sizes["replacement"] = REPLACEMENT_SAMPLES
        sample_sizes["decoys"] = collected.decoys
    evaluation = {
        "methods": results,
        "settings": {
            "checkpoint": str(checkpoint),
            "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "target_class": target.name,
            "db_root": settings.db_root,
            "split": settings.split,
            "train_split": settings.train_split,
            "data_identity": data_identity(maps, training_maps),
            "scenes": count,
            "instances": instances,
            "camera_files": collected.cameras,
            "camera": settings.camera,
            "assumed_cameras": assumptions(collected.assumed),
            "training_scenes": len(training.names),
            "training_instances": len(training.boxes),
            "temperature": settings.temperature,
            "n_z": settings.n_z,
            "samples_per_seed": samples,
            "sample_sizes": sample_sizes,
            "erased": {how: collected.erased[how] for how in ("exact", "filled")},
            "seeds": list(collected.seeds),
            "quick": settings.quick,
            "device": str(device),
            "batch_size": settings.batch_size,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "options": dataclasses.asdict(options),
        },
    }
    try:
        write_atomic(out / "evaluation.md", markdown(evaluation).encode(errors="backslashreplace"))
        write_plots(out, boxes, results, fit)
        write_atomic(out / RESULT, (json.dumps(evaluation, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error.strerror}); choose another") from None
    print(table(results) + "\n")
    for line in remarks(results, evaluation["settings"]):
        print(line)
    drawn = f"{count} scenes, {settings.n_z} objects in each, {settings.seeds} seeds"
    print(drawn + of_temperature(evaluation["settings"]))
    if not settings.quick:
        print(f"re-placement: {erasing(collected.erased)}")
    print(f"definitions and plots: {out}")
    return evaluation


def run_folder(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def data_identity(*splits: WorkingMaps) -> str:
    """Hash of the names of all frames and of the sizes of their files: the same wherever the data lie."""
    rows = [
        (frame.name, *record.stamp[::2])
        for maps in splits
        for frame, record in zip(maps.frames, maps.records, strict=True)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


# ---- one scene ----------------------------------------------------------------------------------


def place(
    collected: Collected,
    model: WhereWhat,
    places: Places,
    scene: SceneMaps,
    view: EvaluatedScene,
    content: FrameMaps,
    training: Training,
    settings: EvaluateOptions,
) -> np.ndarray:
    """Place the model's and the baselines' objects on a scene, and take its real instances.

    Returns the model's compact masks (S,K,cy,cx) bool.
    """
    z = draw_z(model, view.name, collected.seeds, settings.n_z, "model")
    boxes, masks = sample_scene(model, places, scene, *z, settings.batch_size)
    collected.add_placed("model", view, model.target, boxes, masks)
    for method in training.baselines:
        boxes, chosen = draw_boxes(
            method, training, content.labels_small, view.name, collected.seeds, settings.n_z
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


def scene_of(content: FrameMaps, device: torch.device) -> SceneMaps:
    """The maps of one frame as the model takes them, a batch of one."""
    maps = (content.labels_small, content.ids_small, content.labels_big, content.ids_big)
    kinds = (np.uint8, np.int32, np.uint8, np.int32)
    return SceneMaps(
        *(torch.from_numpy(a.astype(kind))[None].to(device) for a, kind in zip(maps, kinds, strict=True))
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
    settings: EvaluateOptions,
) -> None:
    """What changes with z_appr alone, and with z_spatial alone."""
    z_spatial, z_appr = draw_z(model, view.name, collected.seeds, settings.n_z, "disentangle")
    fixed_spatial, fixed_appr = (np.repeat(z[:, :1], settings.n_z, 1) for z in (z_spatial, z_appr))
    boxes, masks_appr = sample_scene(model, places, scene, fixed_spatial, z_appr, settings.batch_size)
    _, masks_spatial = sample_scene(model, places, scene, z_spatial, fixed_appr, settings.batch_size)
    moved = np.abs((boxes - boxes[:, :1]) * view.size).max((1, 2))
    collected.add("model", "box_change_z_appr", moved)
    for metric, masks in (("mask_spread", masks_appr), ("mask_spread_z_spatial", masks_spatial)):
        collected.add("model", metric, [mask_spread(m.reshape(len(m), -1) > 0.5) for m in masks])


@torch.no_grad()
def place_on_maps(
    model: WhereWhat,
    label_ids: np.ndarray,
    instance_ids: np.ndarray,
    z: np.ndarray,
    temperature: float = 1.0,
) -> np.ndarray:
    """Boxes (S,K,4), fractions of the image, for z_spatial (S,K,z_spatial) on full-size maps (H,W).

    The where module alone, as in `model.sample`: no shape is needed.
    """
    maps = working_maps(label_ids, instance_ids, model.maps.small, model.device)
    places = model.where.on(*maps, temperature)
    thetas = [places.sample(part) for part in column(z, model.device).split(64)]
    return boxes_of_theta(torch.cat(thetas).cpu().numpy(), 1, 1).reshape(*z.shape[:2], 4)


def replace_erased(
    collected: Collected,
    model: WhereWhat,
    view: EvaluatedScene,
    training: Training,
    erasures: dict[int, Erasure],
    temperature: float,
) -> None:
    """Erase each real instance of a scene alone and place it again, by the model and by the baselines.

    erasures: those of the tree, by instance; where there is none, the hole is filled.
    """
    for instance_id, true_box in zip(view.real_ids, view.real_boxes, strict=True):
        if instance_id in erasures:
            without = erase_exactly(view.label_ids, view.instance_ids, erasures[instance_id])
        else:
            without = fill_hole(view.label_ids, view.instance_ids, view.instance_ids == instance_id)
        collected.erased["exact" if instance_id in erasures else "filled"] += 1
        label_ids, instance_ids = without
        item, seeds = f"/{instance_id}", collected.seeds
        z_spatial, _ = draw_z(model, view.name + item, seeds, REPLACEMENT_SAMPLES, "erased")
        boxes = {"model": place_on_maps(model, label_ids, instance_ids, z_spatial, temperature)}
        labels_small = small_labels(model, label_ids)
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
    for instance in instances:
        theta = torch.from_numpy(instance.theta)[None].to(device)
        compact = torch.from_numpy(content.compact_of(instance.instance_id) / np.float32(255))
        compact = compact[None, None].to(device)
        if not model.where.has_density:  # there z and theta determine each other
            theta_again = model.where.reconstruct(scene.labels_small, scene.ids_small, theta)
            collected.add("model", "theta_recon_l1", [float((theta_again - theta).abs().mean())])
        compact_again = model.what.reconstruct(scene.labels_big, scene.ids_big, theta, compact)
        collected.add("model", "mask_recon_l1", [float((compact_again - compact).abs().mean())])


def main(arguments: list[str] | None = None) -> None:
    evaluate(parse(arguments))


if __name__ == "__main__":
    run_program(main)
