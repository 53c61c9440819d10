"""The tree of a folder of pictures: finding what there is to do, doing it, the report.

A program of the engine; OUT/label.json has the settings and the report, OUT/manifest.jsonl a line for each
picture with its name and how its instances were told apart.
"""

from functools import partial
from pathlib import Path

from convert.conversion import check_names, summed_up, tell_end
from convert.mapping import VOID
from data.frame import CAMERA_KIND, GT_KINDS, IMAGE_KIND
from data.images import read_mask
from engine.records import WorkItem, fingerprint
from engine.shards import Shard, shard_of_process
from engine.tree import Program, opened
from label.annotations import Annotations, read_annotations
from label.classes import known_labels, labels_of_annotation
from label.labeller import Labeller, Wanted
from label.models import Model, PretrainedModel
from label.options import LabelOptions
from label.pictures import Picture, find_pictures
from support.errors import InputError, name_some, warn
from support.processes import share_of_cores

LABEL = Program("label", "1", "label.json", ("label",), (IMAGE_KIND, GT_KINDS[0], CAMERA_KIND))


def label(options: LabelOptions, model: Model | None = None) -> int:
    """Label all pictures, write the tree and print the report; the exit status.

    model: what finds the segments instead of the model that the options name.
    """
    out, known = Path(options.out), known_labels(Path(options.mapping) if options.mapping else None)
    shard = Shard() if options.merge else shard_of_process(options.shard)
    pictures = find_pictures(Path(options.pictures), out, options.split)
    annotations = annotated_in(options, pictures)
    own = annotations.categories if annotations else []
    own_labels = labels_of_annotation(own, known, Path(options.annotations))
    if options.ego:
        read_mask(Path(options.ego))  # rather refused now than by every picture
    model = model or PretrainedModel(
        options.model, options.revision, options.offline, options.device, options.semantic
    )
    camera = None if options.camera is None else (options.camera, options.camera_height, options.camera_pitch)
    more = {"own": own, "own_labels": own_labels, "ego": options.ego, "camera": camera}
    wanted, facts = Wanted.of_model(model, known, **more), model.about().facts
    items = items_of(pictures, annotations)
    workers = options.num_workers
    if workers is None:
        workers = 1 if facts.get("device") == "cuda" else share_of_cores()

    settings = wanted.settings(facts)
    with opened(LABEL, out, settings, shard, overwrite=options.overwrite) as tree:
        check_names(tree, items)
        mine, todo = shard.of(items), [] if options.merge else tree.to_do(items)
        if todo and len(todo) < len(mine):
            print(f"{out} holds {len(mine) - len(todo)} of {len(mine)} pictures already")
        with tree.pool(partial(Labeller.of, wanted), workers) as pool:
            tree.make(todo, pool, "label", "picture")
        if not tree.merge(items):
            return int(shard.count == 1)
        lines, report = summed_up(tree, items, wanted.mapping)
    for line in annotations.left_out if annotations else ():
        warn(line)
    if void := [name for name, found in wanted.labels.items() if found == VOID]:
        warn(f"classes of the model that mean nothing here: {name_some(void)}; --mapping says otherwise")
    print(report)
    if nothing := [line["picture"] for line in lines if line["status"] == "ok" and not line["counts"]]:
        warn(f"the model is sure of nothing in {len(nothing)} pictures, all void: {name_some(nothing)}")
    print(f"instances: {wanted.told_apart}" + (", and those annotated" if annotations else ""))
    return tell_end(lines, out, "pictures")


def annotated_in(options: LabelOptions, pictures: list[Picture]) -> Annotations | None:
    """What `--annotations` says; None: nothing is given. Raises InputError if it can't be used."""
    if not options.annotations:
        return None
    path = Path(options.annotations)
    if not path.exists():
        raise InputError(f"--annotations {path}: is not there; give a COCO file or a folder of YOLO's format")
    return read_annotations(path, Path(options.pictures), pictures)


def items_of(pictures: list[Picture], annotations: Annotations | None) -> list[WorkItem]:
    """What there is to make: all pictures, or those that an annotation is about."""
    items = []
    for picture in pictures:
        annotated = annotations and annotations.of_picture.get(picture.name)
        if annotations and annotated is None:
            continue
        asked = None
        if annotated:
            names = annotations.categories
            things = [(one.number, names[one.category], one.crowd, one.mask) for one in annotated.things]
            asked = fingerprint([annotated.size, things])
        key = f"{picture.frame.split}/{picture.frame.key}"
        facts = {"picture": picture.name}
        items.append(WorkItem(key, {picture.name: picture.path}, asked, facts, (picture, annotated)))
    return items
