"""python -m scripts.evaluate --checkpoint runs/where_what --db_root datasets/cityscapes

Measures how plausible and diverse the placements of a trained model are, beside the baselines uniform,
prior and nearest and beside real held-out instances. Writes evaluation.json, evaluation.md and plots; for a
model of several classes a table of all, and these files for each.
"""

import dataclasses
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.camera import assumptions, camera_setting
from data.geometry import HeightFit, fit_heights
from data.labels import classes_named
from distributed import choose_device
from evaluation.baselines import Training, read_training
from evaluation.collected import Collected, summarise
from evaluation.leak import absent_metrics, collect_leak
from evaluation.likelihood import collect_entropy
from evaluation.metrics import (
    REPLACEMENT_SAMPLES,
    EvaluatedScene,
    distance_sample,
    read_views,
    shape_sample,
)
from evaluation.report import (
    erasing,
    markdown,
    remarks,
    restrictions,
    summary_of_classes,
    table,
    write_plots,
)
from evaluation.scene import (
    Sampling,
    collect_shapes,
    disentangle,
    place,
    reconstruct,
    replace_erased,
)
from loader.cache import WorkingMaps, prepare
from loader.pairs import scene_of
from model import WhereWhat, load_model
from support.checkpoints import PACKED, find_checkpoint
from support.errors import InputError, run_program
from support.files import digest, write_atomic
from support.progress import progress_bar
from support.settings import checked, parser_of, setting
from where import check_temperature

RESULT = "evaluation.json"
QUICK_N_Z = 4


@dataclass(frozen=True)
class EvaluateOptions:
    """One evaluation; None and "" where nothing was asked for."""

    checkpoint: str = setting(help="run folder (its newest checkpoint), state-*.pt, or builtin:person")
    db_root: str = setting(help="folder that holds gtFine/ and, if any, camera/")
    camera: str = camera_setting()
    split: str = setting("val", "scenes to place objects in")
    train_split: str = setting("train", "where baselines come from")
    target_class: str = setting(
        "", "of a checkpoint's classes only these: person,rider (default: all it has)"
    )
    n_z: int | None = setting(
        None, f"objects in each scene for each seed (default 10; {QUICK_N_Z} with --quick)", read=int, min=2
    )
    seeds: int = setting(5, "number of seeds: 0, 1, 2, ...", min=1)
    out: str = setting("", "folder for the results (default RUN/evaluation)")
    temperature: float = setting(
        1.0, "of the density of places; below 1 gathers places where it is high, 1: as learnt"
    )
    min_height: float = setting(
        0.0,
        "only instances and places at least this part of the image high; others are drawn again",
        min=0,
        below=1,
    )
    scenes: int | None = setting(None, "the first so many scenes of the split (default all)", read=int, min=1)
    cache_dir: str = setting("", "folder of working-size maps (default that of the training)")
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
    batch_size: int = setting(8, "objects made at once; changes rounding at most", min=1)
    quick: bool = setting(False, "placement metrics only: no re-placement, shapes, reconstruction")
    overwrite: bool = setting(False, "replace an evaluation that lies in --out")


parser = partial(parser_of, EvaluateOptions, "python -m scripts.evaluate", "Measure placements.")


def parse(arguments: list[str] | None = None) -> EvaluateOptions:
    """Options of a command line (None: sys.argv). Raises InputError for what can't be used."""
    options = checked(EvaluateOptions(**vars(parser().parse_args(arguments))))
    return options if options.n_z else dataclasses.replace(options, n_z=QUICK_N_Z if options.quick else 10)


@dataclass(frozen=True)
class Subject:
    """One class of an evaluation: the model for it, what it is compared with, what the scenes gave."""

    model: WhereWhat
    instances: int  # usable ones in the scenes
    training: Training
    fit: HeightFit | None
    collected: Collected


def evaluate(settings: EvaluateOptions) -> dict:
    """Measure, write the results, and return what evaluation.json holds."""
    # ---- model and data
    checkpoint = find_checkpoint(settings.checkpoint)
    device = choose_device(settings.device)
    model = load_model(checkpoint, device)
    check_temperature(model.where, settings.temperature)
    options = dataclasses.replace(
        model.options,
        db_root=settings.db_root,
        cache_dir=settings.cache_dir or model.options.cache_dir,
    )
    if not settings.out and checkpoint.suffix == PACKED:
        raise InputError(f"--checkpoint {settings.checkpoint}: belongs to no run folder; give --out")
    in_run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    out = Path(settings.out) if settings.out else in_run / "evaluation"
    if (out / RESULT).exists() and not settings.overwrite:
        raise InputError(f"{out / RESULT} exists: give --overwrite to replace it, or another --out")
    targets = classes_named(settings.target_class) if settings.target_class else model.targets
    models = [model.of_class(target.name) for target in targets]
    maps, training_maps = (
        dataclasses.replace(prepare(options, split), min_height=settings.min_height)
        for split in (settings.split, settings.train_split)
    )
    count = min(settings.scenes or len(maps), len(maps))
    subjects, left_out = {}, []
    for of_class in models:
        try:
            subjects[of_class.target.name] = subject_of(of_class, maps, training_maps, count, settings)
        except InputError as error:
            left_out.append(error)
    if not subjects:
        raise left_out[0]
    try:
        there = next(folder for folder in (out, *out.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=there):  # rather now than after minutes of work
            pass
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error.strerror}); choose another") from None

    # ---- scenes
    for index in progress_bar(range(count), "scenes", unit="scene"):
        classes = [one.model.target for one in subjects.values()]
        views = read_views(maps, index, classes, settings.camera)
        for subject, view in zip(subjects.values(), views, strict=True):
            measure_scene(subject, view, maps, index, settings)

    # ---- metrics
    of_run = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": digest(checkpoint.read_bytes()),
        "data_identity": data_identity(maps, training_maps),
        "scenes": count,
        "device": str(device),
        "options": dataclasses.asdict(options),
    }
    evaluations = {}
    try:
        for name, subject in subjects.items():
            folder = out if len(models) == 1 else out / name
            evaluations[name] = finish(subject, folder, of_run, settings)
        if len(models) > 1:
            summary = {"classes": evaluations, "left_out": [str(error) for error in left_out]}
            write_atomic(out / "evaluation.md", summary_of_classes(summary).encode(errors="backslashreplace"))
            write_atomic(out / RESULT, (json.dumps(summary, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"--out {out}: can't be written ({error.strerror}); choose another") from None
    if len(models) > 1:
        print(summary_of_classes(summary))
    else:
        (evaluation,) = evaluations.values()
        print(table(evaluation["methods"]) + "\n")
        for line in remarks(evaluation["methods"], evaluation["settings"]):
            print(line)
    drawn = f"{count} scenes, {settings.n_z} objects in each, {settings.seeds} seeds"
    print(drawn + restrictions(settings.temperature, settings.min_height))
    if not settings.quick:
        print(f"re-placement: {erasing(sum((one.collected.erased for one in subjects.values()), Counter()))}")
    print(f"definitions and plots: {out}")
    return summary if len(models) > 1 else evaluation


def subject_of(
    model: WhereWhat, maps: WorkingMaps, training_maps: WorkingMaps, count: int, settings: EvaluateOptions
) -> Subject:
    """A model of one class and what it is compared with.

    Raises InputError if the first `count` scenes or the training split hold no usable instance.
    """
    name = model.target.name
    instances = sum(len(maps.instances(index, name)) for index in range(count))
    if not instances:
        raise InputError(
            f"{settings.db_root}: none of {count} images of {settings.split} holds a usable {name}"
            f"{restrictions(1, settings.min_height)}; choose another --split or --db_root, or more --scenes"
            + (", or a lower --min_height" if settings.min_height else "")
        )
    training = read_training(training_maps, name)
    return Subject(model, instances, training, fit_heights(training.boxes), Collected(settings.seeds))


def measure_scene(
    subject: Subject, view: EvaluatedScene, maps: WorkingMaps, index: int, settings: EvaluateOptions
) -> None:
    """Collect all that scene `index` says about a class."""
    model, collected, training = subject.model, subject.collected, subject.training
    content = maps.load(index)
    scene = scene_of(content).to(model.device)
    places = model.where.on(scene.labels_small, scene.ids_small, settings.temperature)
    sampling = Sampling(settings.n_z, settings.batch_size, settings.temperature, settings.min_height)
    masks = place(collected, model, places, scene, view, content, training, sampling)
    if settings.quick:
        return
    if model.what.draws_shapes:
        collect_shapes(collected, view, content, masks)
        disentangle(collected, model, places, scene, view, sampling)
    erasures = maps.frames[index].read_erasures()
    replace_erased(collected, model, view, training, erasures, sampling)
    if model.where.has_density:
        collect_leak(collected, model, view, erasures, settings.temperature)
        if not (view.label_ids == model.target.label_id).any():
            collect_entropy(collected, model, content.labels_small)
    reconstruct(collected, model, scene, content, maps.instances(index, model.target.name))


def finish(subject: Subject, folder: Path, of_run: dict, settings: EvaluateOptions) -> dict:
    """Turn what was collected of a class into metrics; write and return its evaluation.

    of_run: settings that all classes share. Raises OSError if the folder can't be written.
    """
    model, collected, training = subject.model, subject.collected, subject.training
    if not settings.quick:
        collected.absent = absent_metrics(model, collected)
    count = of_run["scenes"]
    samples = count * settings.n_z
    results, boxes = summarise(collected, training, subject.fit, samples)
    sample_sizes = {"distance": distance_sample(subject.instances, samples)}
    if not settings.quick:
        if training.baselines and model.what.draws_shapes:
            sample_sizes["shapes"] = shape_sample(samples, subject.instances, len(training.boxes))
        sample_sizes["replacement"] = REPLACEMENT_SAMPLES
        sample_sizes["decoys"] = collected.decoys
    evaluation = {
        "methods": results,
        "settings": {
            "checkpoint": of_run["checkpoint"],
            "checkpoint_sha256": of_run["checkpoint_sha256"],
            "target_class": model.target.name,
            "db_root": settings.db_root,
            "split": settings.split,
            "train_split": settings.train_split,
            "data_identity": of_run["data_identity"],
            "scenes": count,
            "instances": subject.instances,
            "camera_files": collected.cameras,
            "camera": settings.camera,
            "assumed_cameras": assumptions(collected.assumed),
            "training_scenes": len(training.names),
            "training_instances": len(training.boxes),
            "temperature": settings.temperature,
            "min_height": settings.min_height,
            "n_z": settings.n_z,
            "samples_per_seed": samples,
            "sample_sizes": sample_sizes,
            "erased": {how: collected.erased[how] for how in ("exact", "filled")},
            "seeds": list(collected.seeds),
            "quick": settings.quick,
            "device": of_run["device"],
            "batch_size": settings.batch_size,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "options": of_run["options"],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "evaluation.md", markdown(evaluation).encode(errors="backslashreplace"))
    write_plots(folder, boxes, results, subject.fit)
    write_atomic(folder / RESULT, (json.dumps(evaluation, indent=1) + "\n").encode())
    return evaluation


def data_identity(*splits: WorkingMaps) -> str:
    """Hash of the names of all frames and of the sizes of their files: the same wherever the data lie."""
    rows = [
        (frame.name, *record.stamp[::2])
        for maps in splits
        for frame, record in zip(maps.frames, maps.records, strict=True)
    ]
    return digest(json.dumps(rows).encode())


def main(arguments: list[str] | None = None) -> None:
    evaluate(parse(arguments))


if __name__ == "__main__":
    run_program(main)
