"""python -m scripts.insert --checkpoint runs/where_what --db_root datasets/cityscapes --out datasets/more

Inserts objects into a whole Cityscapes-format split and writes an official tree: labelIds, instanceIds,
color, polygons and camera where the source has them, masks of the inserted pixels, manifest.jsonl, and
insert.json with the counts. The same command again goes on where a run was cut short; torchrun, a Slurm job
array or --shard share the images out over several processes or machines.

With --render the new objects are painted on the RGB images too, which become leftImg8bit of the new tree.
"""

import json
import time
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from augment.placement.contact_sheet import contact_sheet
from augment.placement.options import (
    ALL,
    LIKE_DATA,
    InsertOptions,
    parse,
    rendering_of,
)
from augment.placement.places import TreeInserter, count_classes, models_for, needed_fits
from augment.placement.plan import INSERT, PREVIEW, histogram, plan, sum_up
from augment.placement.scene import new_frame, single_frame, sources_of
from augment.tree_extras import add_panoptic, add_raw, add_train_ids, export_coco, splits_of
from data.camera import assumption_lines, assumptions
from data.frame import Frame, all_frames, list_frames, root_above
from data.geometry import HeightFit
from data.writer import encode_png
from distributed import choose_device
from engine.records import Records, WorkItem, fingerprint
from engine.shards import Shard, shard_of_process
from engine.tree import Tree, opened
from label.coco_like import matched, write_coco_like
from model import WhereWhat
from support.errors import SAME_COMMAND, InputError, name_some, run_program, warn
from support.files import check_apart, digest, in_turn, write_atomic, writing_to
from support.processes import Pool

# ---- input --------------------------------------------------------------------------------------


def shares_of(settings: InsertOptions, frames: list[Frame]) -> dict[str, int]:
    """How often each class is to be drawn beside the others, by name; frames: all of the split.

    Raises InputError where that goes by instances and there are none.
    """
    there = tuple(settings.hashes)
    if settings.target:
        return dict.fromkeys(sorted(settings.target), 1)
    if settings.classes == LIKE_DATA:
        counts = count_classes(frames)
        shares = {name: counts[name] for name in there if counts.get(name)}
        if not shares:
            raise InputError(f"--classes like-data: no instance of {', '.join(there)} in {settings.db_root}")
        return shares
    return dict.fromkeys(there if settings.classes == ALL else sorted(settings.classes), 1)


def frames_of(settings: InsertOptions) -> list[Frame]:
    """All images of the split, sorted by name; those that lack a map are among them, to be named.

    Raises InputError if there are none, or if OUT lies in the input or around it.
    """
    single = single_frame(settings.image, settings.instances) if settings.image else None
    inputs = [Path(settings.db_root).resolve()] if settings.db_root else []
    if single:
        for path in (single.label_path.resolve(), single.instance_path.resolve()):
            inputs.append(root_above(path) or path)
    for root in inputs:
        check_apart(Path(settings.out), root, f"the input {root} or around it")
    return [single] if single else all_frames(settings.db_root, settings.split)


def height_fits(
    settings: InsertOptions, frames: list[Frame], models: dict[str, WhereWhat]
) -> dict[str, HeightFit]:
    """Fits of height against foot row, for classes and images where the camera does not tell the height.

    frames: all of the split, so that the fits are the same for any part of them.
    """
    if "height" not in settings.filters.rules:
        return {}
    cameras = settings.camera == "cityscapes" or not without_camera(frames)
    sample = frames
    if settings.image and settings.db_root:
        sample = list_frames(settings.db_root, settings.split)
    return needed_fits(sample, models, cameras)


def without_camera(frames: list[Frame]) -> list[str]:
    """Names of the frames that have no camera file."""
    return [frame.name for frame in frames if not frame.camera_path]


def assumed_cameras(settings: InsertOptions, frames: list[Frame]) -> dict[str, dict]:
    """The published calibrations used (`data.camera.assumptions`), none with --camera auto."""
    return assumptions(without_camera(frames)) if settings.camera == "cityscapes" else {}


# ---- the run ------------------------------------------------------------------------------------


def insert(settings: InsertOptions) -> int:
    """Insert, write the tree and print the counts; the exit status."""
    start = time.monotonic()
    torch.set_num_threads(1)
    out = Path(settings.out)
    shard = Shard() if settings.merge else shard_of_process(settings.shard)
    settings = replace(settings, device=str(choose_device(settings.device)))
    settings = replace(settings, rendering=rendering_of(settings))
    models = models_for(settings)
    settings = replace(
        settings,
        checkpoint=tuple(dict.fromkeys(str(path) for path, _ in models.values())),
        hashes={name: _sha256(path) for name, (path, _) in sorted(models.items())},
    )
    there = frames_of(settings)
    settings = replace(settings, shares=shares_of(settings, there))
    if settings.rendering:
        settings.rendering.check_classes(settings.shares)
    frames = there[: settings.scenes]
    if settings.rendering:
        lacking = [frame.name for frame in frames if not frame.image_path]
        if lacking:
            raise InputError(f"--render: no leftImg8bit image for {name_some(lacking)}; go without --render")
    if settings.filters.distance and settings.camera == "auto" and without_camera(frames):
        raise InputError(
            "--distance needs the data set's camera files; give --camera cityscapes if the images are"
            " Cityscapes', or use --height or --region instead"
        )
    if settings.coco_like:
        matched(Path(settings.coco_like), Path(settings.db_root), frames)  # rather now than at the end
    assumed = assumed_cameras(settings, frames)
    fingerprinted = fingerprint_settings(settings, bool(assumed))

    if settings.dry_run:
        tell_plan(settings, frames, fingerprinted, shard)
        return 0
    with opened(INSERT, out, fingerprinted, shard, overwrite=settings.overwrite) as tree:
        fits = height_fits(settings, there, {name: models[name][1] for name in settings.shares})
        settings = replace(settings, fits=fits)
        items = items_of(settings, frames)
        mine = shard.of(frames)
        todo = [] if settings.merge else tree.to_do(items)
        if len(todo) < len(mine) and todo:
            print(f"{out} holds {len(mine) - len(todo)} of {len(mine)} images already: going on with it")
        if settings.rendering and todo:
            with writing_to(out), in_turn(out), Pool(settings.num_workers) as pool:
                settings.rendering.prepare(partial(pool.with_bar, "instances to show"))
        with tree.pool(partial(TreeInserter, settings), settings.num_workers) as pool:
            tree.make(todo, pool, "images", "image")
        if todo:
            print(f"{len(todo)} images in {time.monotonic() - start:.1f} s")
        elif not settings.merge:
            print(
                f"{out} is complete already, nothing to do" if shard.count == 1 else f"shard {shard} is done"
            )

        if not tree.merge(items):
            return int(shard.count == 1)
        results = sum_up(tree.records.blocks())
        results["state"] = "incomplete" if results["images_failed"] else "complete"
        if settings.classes == LIKE_DATA:
            results["class_counts"] = settings.shares
        results["height_fits"] = {name: asdict(fit) for name, fit in fits.items()}
        if assumed:
            results["settings"] = fingerprinted | {"assumed_cameras": assumed}
        with writing_to(out):
            tree.write_summary(results)
            if settings.beside:
                count = add_raw(Path(settings.db_root), out, [settings.split], settings.raw)
                print(f"{count} raw files by {settings.raw}")
            add_extras(settings, tree.records, there, {name: model for name, (_, model) in models.items()})
        for line in assumption_lines(assumed):
            print(line)
        report(out, results, tree.records)
    return 1 if results["images_failed"] else 0


def planned_for(settings: InsertOptions, frames: list[Frame]) -> list[tuple[str, ...]]:
    """The classes of the objects to insert into each frame."""
    names, per_image = [frame.name for frame in frames], settings.per_image or (1, 1)
    return plan(names, settings.shares, settings.seed, per_image, settings.target)


def items_of(settings: InsertOptions, frames: list[Frame]) -> list[WorkItem]:
    """What there is to make of each frame."""
    fits = {name: asdict(fit) for name, fit in settings.fits.items()}
    about_fits = {"fits": fingerprint(fits)} if fits else {}
    items = []
    for frame, chosen in zip(frames, planned_for(settings, frames), strict=True):
        sources = sources_of(frame, settings.rendering is not None)
        facts = {"image": new_frame(frame, Path(settings.out), settings.split, settings.beside).name}
        items.append(WorkItem(frame.name, sources, {"classes": list(chosen)} | about_fits, facts, frame))
    return items


def tell_plan(settings: InsertOptions, frames: list[Frame], fingerprinted: dict, shard: Shard) -> None:
    """Print what a run would do. Raises InputError where the run would refuse OUT."""
    out, planned = Path(settings.out), planned_for(settings, frames)
    finished = 0
    if not settings.overwrite and INSERT.holds_run(out):
        records = Tree(INSERT, out, fingerprinted, shard).records
        finished = sum(bool(records.get(frame.name)) for frame in frames)
    wanted = Counter(name for chosen in planned for name in chosen)
    listed = ", ".join(f"{count} {name}" for name, count in sorted(wanted.items()))
    print(
        f"{len(frames)} images of {settings.db_root or settings.image}, {finished} of them finished in {out}"
    )
    print(f"objects to be tried: {listed or 'none'}")
    if shard.count > 1:
        print(f"shard {shard}: {len(shard.of(frames))} images")
    print("nothing was written (--dry_run)")


def fingerprint_settings(settings: InsertOptions, assumed: bool) -> dict:
    """Everything that decides the content of the files but for the images, as insert.json shows it.

    assumed: cameras are assumed.
    """
    filters, rendering = settings.filters, settings.rendering
    classes = {} if settings.classes == ALL else {"classes": settings.classes}
    fingerprinted = classes | {
        "split": settings.split,
        "checkpoints": settings.hashes,
        "seed": settings.seed,
        "attempts": settings.attempts,
        "temperature": settings.temperature,
        "per_image": None if settings.target else list(settings.per_image or (1, 1)),
        "target": settings.target,
        "z_spatial": settings.z_spatial,
        "z_appr": settings.z_appr,
        "gates": asdict(filters) | {"region_mask": _sha256(filters.region_mask)},
        "render": rendering.to_json() if rendering else "none: leftImg8bit is not written",
        "device": torch.device(settings.device).type,  # rounding differs between kinds
        "assumed_cameras": assumed,
        "beside": settings.beside,
    }
    return json.loads(json.dumps(fingerprinted))  # tuples become lists, as in the file


def _sha256(path: Path | str | None) -> str | None:
    return digest(Path(path).read_bytes()) if path else None


# ---- what comes after ---------------------------------------------------------------------------


def add_extras(
    settings: InsertOptions, records: Records, frames: list[Frame], models: dict[str, WhereWhat]
) -> None:
    """Write annotation for other readers, and the contact sheet of the whole tree, where asked for."""
    out, source = Path(settings.out), {frame.name: frame for frame in frames}
    splits = [split for split in splits_of(out) if split == settings.split]  # none if all images failed
    with Pool(settings.num_workers) as pool:
        if settings.train_ids:
            add_train_ids(out, pool.map)
        if settings.coco and splits:
            print(f"COCO annotation: {export_coco(out, splits, map_function=pool.map)[0][0]}")
        if settings.coco_like and splits:
            new = [(one, new_frame(one, out, settings.split, settings.beside)) for one in frames]
            given = Path(settings.coco_like), Path(settings.db_root), new[: settings.scenes], out
            path, left_out = write_coco_like(*given, pool.map)
            print(f"COCO annotation like {settings.coco_like}: {path}")
            for line in left_out:
                warn(f"left out: {line}")
    if settings.panoptic and splits:
        print(f"panoptic annotation: {add_panoptic(out, splits)[0]}")
    if settings.preview:
        changed = []
        for *objects, own in records.blocks():
            new = [one for one in objects if one["status"] == "inserted"]
            if new and own["key"] in source:
                frame = source[own["key"]]
                changed.append((frame, new_frame(frame, out, settings.split, settings.beside), new))
        if changed:
            write_atomic(out / PREVIEW, encode_png(contact_sheet(changed, models, settings.preview)))
            print(f"contact sheet: {out / PREVIEW}")
        else:
            warn("no contact sheet: no object was inserted")


def report(out: Path, summary: dict, records: Records) -> None:
    """Print the counts."""
    print(histogram(summary))
    tried = sum(summary["objects_inserted"].values()) + sum(summary["objects_given_up"].values())
    print(f"{sum(summary['objects_inserted'].values())} of {tried} objects inserted,", end=" ")
    print(f"{summary['images_changed']} of {summary['images']} images changed")
    for name, counts in summary["refusals"].items():
        if counts:
            listed = ", ".join(f"{reason} {count}" for reason, count in counts.items())
            print(f"rejections, {name}: {listed}")
    for name, shown in summary["cutouts"].items():
        print(
            f"cut-outs, {name}: {shown['instances']} instances shown by {shown['objects']} objects, the"
            f" commonest {shown['most_often']} times"
        )
    for name in summary["images_failed"]:
        warn(f"skipped {name}: {records.get(name)[-1]['reason']}")
    if summary["images_failed"]:
        count = len(summary["images_failed"])
        warn(f"{count} images skipped; mend them and give the same command again to add them")
    print(f"tree: {out}")


def main(arguments: list[str] | None = None) -> int:
    return insert(parse(arguments))


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
