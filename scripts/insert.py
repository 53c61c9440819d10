"""python -m scripts.insert --checkpoint runs/where_what --db_root datasets/cityscapes --out datasets/more

Inserts objects into a whole Cityscapes-format split and writes an official tree: labelIds, instanceIds,
color, polygons and camera where the source has them, masks of the inserted pixels, manifest.jsonl, and
insert.json with the counts. The same command again goes on where a run was cut short; torchrun shares the
images out over several processes or machines.

With --render the new objects are painted on the RGB pictures too, which become leftImg8bit of the new tree.
"""

import dataclasses
import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from augment.insert.contact_sheet import contact_sheet
from augment.insert.gates import Gates
from augment.insert.options import InsertOptions, gates_of, parse, rendering_of
from augment.insert.places import WORK, Settings, Task, start_worker, training_boxes, work
from augment.insert.scene import sibling_path, single_frame
from augment.insert.tree import (
    MANIFEST,
    PREVIEW,
    VERSION,
    abandon,
    all_records,
    finished_frame,
    histogram,
    is_done,
    open_tree,
    plan,
    remove_records,
    sum_up,
    write_manifest,
    write_summary,
)
from augment.paint.painter import Rendering
from data.camera import assumption_lines, assumptions
from data.cityscapes import INSTANCE_SUFFIX, LABEL_SUFFIX, Frame, list_frames, name_some
from data.coco import write_coco
from data.geometry import METRIC_RANGES, HeightFit, fit_heights, too_few
from data.train_ids import write_train_ids
from data.writer import encode_png
from distributed import Ranks, choose_device, joined, wait_for_all
from model import WhereWhat, load_model
from support.checkpoints import find_checkpoint
from support.errors import InputError, run_program, warn
from support.files import alone_in, digest, write_atomic, writing_to
from support.processes import Pool

# ---- input --------------------------------------------------------------------------------------


def load_models(paths: list[str], settings: InsertOptions) -> dict[str, tuple[Path, WhereWhat]]:
    """Checkpoint file and model of each class. Raises InputError if they do not fit what is asked for."""
    models: dict[str, tuple[Path, WhereWhat]] = {}
    for path in paths:
        checkpoint = find_checkpoint(path)
        model = load_model(checkpoint, temperature=settings.temperature)
        name = model.target.name
        if name in models:
            raise InputError(
                f"--checkpoint {path}: a second one for {name}, beside {models[name][0]}; drop one"
            )
        for option in ("z_spatial", "z_appr"):
            wanted, given = getattr(model.options, option.replace("z_", "z_dim_")), getattr(settings, option)
            if given and len(given) != wanted:
                raise InputError(f"--{option}: {len(given)} numbers, but the {name} model takes {wanted}")
        models[name] = checkpoint, model
    for name in settings.target or ():
        if name not in models:
            raise InputError(
                f"--target {name}: no checkpoint for that class, only for {', '.join(models)}; add one with"
                " --checkpoint"
            )
    return models


def frames_of(settings: InsertOptions) -> list[Frame]:
    """The images to insert into, sorted by name; those that lack a map are among them, to be named.

    Raises InputError if there are none, or if OUT lies in the input or around it.
    """
    single = single_frame(settings.image, settings.instances) if settings.image else None
    out = Path(settings.out).resolve()
    inputs = [Path(settings.db_root).resolve()] if settings.db_root else []
    if single:
        for path in (single.label_path.resolve(), single.instance_path.resolve()):
            split = path.parents[1] if len(path.parents) > 3 else None
            inputs.append(split.parents[1] if split and split.parent.name == "gtFine" else path)
    for root in inputs:
        if out == root or root in out.parents or out in root.parents:
            raise InputError(f"--out {settings.out}: inside the input {root} or around it; choose another")
    if single:
        return [single]
    frames = list_frames(settings.db_root, settings.split, skip_incomplete=True)
    known = {frame.name for frame in frames}
    folder = Path(settings.db_root) / "gtFine" / settings.split
    for path in sorted([*folder.glob(f"*/*{LABEL_SUFFIX}"), *folder.glob(f"*/*{INSTANCE_SUFFIX}")]):
        name = path.name.removesuffix(LABEL_SUFFIX).removesuffix(INSTANCE_SUFFIX)
        if name not in known:
            files = (path.with_name(name + suffix) for suffix in (LABEL_SUFFIX, INSTANCE_SUFFIX))
            frames.append(Frame(name, *files))
    return sorted(frames, key=lambda frame: frame.name)[: settings.scenes]


def height_fits(
    settings: InsertOptions, gates: Gates, frames: list[Frame], models: list[WhereWhat]
) -> dict[str, HeightFit]:
    """Fits of height against foot row, for classes and images where the camera does not tell the height."""
    if "height" not in gates.rules:
        return {}
    cameras = settings.camera == "cityscapes" or not without_camera(frames)
    fits = {}
    sample = frames
    if settings.image and settings.db_root:
        sample = list_frames(settings.db_root, settings.split)
    for model in models:
        name = model.target.name
        if cameras and name in METRIC_RANGES:
            continue
        boxes = training_boxes(sample, model)
        if reason := too_few(len(boxes)):
            warn(f"no plausible heights of {name}: {reason}; the rule 'height' is off without a camera")
        else:
            fits[name] = fit_heights(boxes)
    return fits


def without_camera(frames: list[Frame]) -> list[str]:
    """Names of the frames that have no camera file."""
    return [frame.name for frame in frames if not sibling_path(frame, "camera", "_camera.json")]


def assumed_cameras(settings: InsertOptions, frames: list[Frame]) -> dict[str, dict]:
    """The published calibrations used (`data.camera.assumptions`), none with --camera auto."""
    return assumptions(without_camera(frames)) if settings.camera == "cityscapes" else {}


# ---- the run ------------------------------------------------------------------------------------


def insert(settings: InsertOptions, ranks: Ranks, held: ExitStack) -> int:
    """Insert, write the tree and print the counts; the exit status. `held` gets the lock on OUT."""
    start = time.monotonic()
    torch.set_num_threads(1)
    out, device = Path(settings.out), choose_device(settings.device, ranks.local)
    gates, rendering = gates_of(settings), rendering_of(settings, str(device))
    models = load_models(settings.checkpoint, settings)
    frames = frames_of(settings)
    if rendering:
        lacking = [f.name for f in frames if not sibling_path(f, "leftImg8bit", "_leftImg8bit.png")]
        if lacking:
            raise InputError(
                f"--render: no leftImg8bit picture for {name_some(lacking)}; go without --render"
            )
    if settings.distance and settings.camera == "auto" and without_camera(frames):
        raise InputError(
            "--distance needs the data set's camera files; give --camera cityscapes if the pictures are"
            " Cityscapes', or use --height or --region instead"
        )
    names = [frame.name for frame in frames]
    per_image = settings.per_image or (1, 1)
    planned = plan(names, tuple(sorted(models)), settings.seed, per_image, settings.target)
    tasks = [Task(frame, classes) for frame, classes in zip(frames, planned, strict=True)]
    checkpoints = {name: _sha256(path) for name, (path, _) in sorted(models.items())}
    decisive = decisive_settings(settings, gates, rendering, frames, checkpoints, device)

    if ranks.rank == 0:  # for all of its job
        held.enter_context(alone_in(out))
    with writing_to(out):
        summary = open_tree(out, decisive, settings.overwrite) if ranks.rank == 0 else None
    wait_for_all()
    if ranks.rank and not (out / WORK).is_dir():  # rank 0 found it complete
        return 0
    if summary is None:
        fits = height_fits(settings, gates, frames, [model for _, model in models.values()])
        job = Settings(
            checkpoints=tuple(str(path) for path, _ in models.values()),
            out=settings.out,
            split=settings.split,
            seed=settings.seed,
            attempts=settings.attempts,
            temperature=settings.temperature,
            gates=gates,
            fits=fits,
            z_spatial=settings.z_spatial,
            z_appr=settings.z_appr,
            rendering=rendering,
            device=str(device),
            camera=settings.camera,
        )
        mine = tasks[ranks.rank :: ranks.count]
        with writing_to(out):
            todo = [task for task in mine if not is_done(out, task.frame)]
            if len(todo) < len(mine):
                print(f"{out} holds {len(mine) - len(todo)} of {len(mine)} images already: going on with it")
            for task in todo:  # so that a record is always one of this run
                (out / WORK / f"{task.frame.name}.json").unlink(missing_ok=True)
            if rendering and ranks.rank == 0:
                with Pool(settings.num_workers) as pool:
                    rendering.prepare(partial(pool.with_bar, "instances to show"))
            wait_for_all()
            try:
                with Pool(settings.num_workers, start_worker, (job,)) as pool:
                    for _ in pool.with_bar("images", work, todo, unit="image"):
                        pass
            except InputError:
                if ranks.count == 1:
                    abandon(out)
                raise
            if ranks.rank:
                return 0
            records = all_records(out, [task.frame for task in tasks])
            lines = write_manifest(out, tasks, records, checkpoints)
            results = sum_up(records)
            state = "incomplete" if results["images_failed"] else "complete"
            fitted = {name: dataclasses.asdict(fit) for name, fit in fits.items()}
            summary = {"state": state, **results, "height_fits": fitted}
            write_summary(out, decisive, summary)
            if state == "complete":
                remove_records(out)
        seconds = time.monotonic() - start
        print(f"{len(todo)} images in {seconds:.1f} s")
    else:
        print(f"{out} is complete already, nothing to do")
        lines = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    with writing_to(out):
        add_extras(settings, out, frames, lines, {name: model for name, (_, model) in models.items()})
    for line in assumption_lines(assumed_cameras(settings, frames)):
        print(line)
    report(out, summary, lines)
    return 1 if summary["images_failed"] else 0


def decisive_settings(
    settings: InsertOptions,
    gates: Gates,
    rendering: Rendering | None,
    frames: list[Frame],
    checkpoints: dict[str, str],
    device: torch.device,
) -> dict:
    """Everything that decides the content of the files, as insert.json shows it."""
    per_image = None if settings.target else list(settings.per_image or (1, 1))
    names = [frame.name for frame in frames]
    decisive = {
        "version": VERSION,
        "images": len(names),
        "names": digest("\n".join(names).encode()),
        "split": settings.split,
        "checkpoints": checkpoints,
        "seed": settings.seed,
        "attempts": settings.attempts,
        "temperature": settings.temperature,
        "per_image": per_image,
        "target": settings.target,
        "z_spatial": settings.z_spatial,
        "z_appr": settings.z_appr,
        "gates": dataclasses.asdict(gates) | {"region_mask": _sha256(gates.region_mask)},
        "render": rendering.to_json() if rendering else "none: leftImg8bit is not written",
        "device": device.type,  # rounding differs between kinds
    }
    if assumed := assumed_cameras(settings, frames):
        decisive["assumed_cameras"] = assumed
    return json.loads(json.dumps(decisive))  # tuples become lists, as in the file


def _sha256(path: Path | str | None) -> str | None:
    return digest(Path(path).read_bytes()) if path else None


# ---- what comes after ---------------------------------------------------------------------------


def add_extras(
    settings: InsertOptions,
    out: Path,
    frames: list[Frame],
    lines: list[dict],
    models: dict[str, WhereWhat],
) -> None:
    """Write train ids, the COCO file and the contact sheet, where asked for."""
    failed = {line["image"] for line in lines if line["status"] == "failed"}
    good = [frame for frame in frames if frame.name not in failed]
    inserted: dict[str, list[dict]] = {}
    for line in lines:
        if line["status"] == "inserted":
            inserted.setdefault(line["image"], []).append(line)
    made = [finished_frame(out, settings.split, frame) for frame in good]
    if settings.train_ids:
        with Pool(settings.num_workers) as pool:
            for message in write_train_ids(made, pool.map):
                warn(message)
    if settings.coco:
        new_ids = {name: tuple(one["instance_id"] for one in found) for name, found in inserted.items()}
        with Pool(settings.num_workers) as pool:
            path = write_coco(out, settings.split, made, new_ids, pool.map)
        print(f"COCO annotation: {path}")
    if settings.preview:
        pairs = [
            (frame, finished_frame(out, settings.split, frame), inserted[frame.name])
            for frame in good
            if frame.name in inserted
        ]
        if pairs:
            write_atomic(out / PREVIEW, encode_png(contact_sheet(pairs, models, settings.preview)))
            print(f"contact sheet: {out / PREVIEW}")
        else:
            warn("no contact sheet: no object was inserted")


def report(out: Path, summary: dict, lines: list[dict]) -> None:
    """Print the counts."""
    print(histogram(summary))
    tried = sum(summary["objects_inserted"].values()) + sum(summary["objects_given_up"].values())
    print(f"{sum(summary['objects_inserted'].values())} of {tried} objects inserted,", end=" ")
    print(f"{summary['images_changed']} of {summary['images']} images changed")
    for name, counts in summary["refusals"].items():
        if counts:
            listed = ", ".join(f"{reason} {count}" for reason, count in counts.items())
            print(f"refusals, {name}: {listed}")
    for line in lines:
        if line["status"] == "failed":
            warn(f"skipped {line['image']}: {line['reason']}")
    if summary["images_failed"]:
        count = len(summary["images_failed"])
        warn(f"{count} images skipped; mend them and give the same command again to add them")
    print(f"tree: {out}")


def main() -> int:
    settings = parse()
    with joined() as ranks, ExitStack() as held:
        try:
            return insert(settings, ranks, held)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from there")
            return 130


if __name__ == "__main__":
    run_program(main)
