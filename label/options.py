"""The options of `scripts.label`, and their checks."""

from dataclasses import dataclass
from functools import partial

from engine.shards import HELP, Shard
from label.models import DEFAULT_MODEL, DEFAULT_REVISION, HEADS
from support.errors import InputError
from support.settings import checked, setting

SECTIONS = {
    "input": "input",
    "model": "the segmenter",
    "camera": "what the camera tells",
    "output": "output",
}
_input, _model, _camera, _output = (partial(setting, section=name) for name in SECTIONS)


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """What is labelled, and how; None and "" where nothing was asked for."""

    pictures: str = _input(
        help="folder of pictures, JPEG, PNG or WebP; those in folders below it count too",
        flag={"metavar": "DIR"},
    )
    out: str = _input(help="folder of the tree; made if absent", flag={"metavar": "TREE"})
    split: str = _input("train", "split that the pictures become")
    annotations: str = _input(
        "",
        "things that you have annotated with masks or polygons, a COCO file or a folder of YOLO's; the"
        " segmenter then gives everything else",
        flag={"metavar": "FILE_OR_DIR"},
    )
    mapping: str = _input(
        "",
        "YAML lines 'class: Cityscapes label', or void, for classes whose names don't tell",
        flag={"metavar": "FILE"},
    )

    model: str = _model(DEFAULT_MODEL, f"ID on the Hugging Face hub, or a folder: {', '.join(HEADS)}")
    revision: str = _model(
        "", f"branch, tag or commit on the hub (default {DEFAULT_REVISION[:7]} of that model, else main)"
    )
    offline: bool = _model(False, "take the model from the local cache only (as with HF_HUB_OFFLINE=1)")
    semantic: bool = _model(
        False,
        "ask the model for classes alone; each connected piece of a class is then an instance (always so with"
        " segformer)",
    )
    device: str = _model("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")

    ego: str = _camera("", "PNG, not 0 where the own vehicle is in every picture", flag={"metavar": "MASK"})
    camera: float | None = _camera(
        None,
        "field of view across the longer side of a picture, degrees; writes camera files",
        read=float,
        flag={"metavar": "FOV"},
        min=1,
        max=170,
    )
    camera_height: float | None = _camera(
        None, "of the camera above the ground, metres", read=float, above=0, max=100
    )
    camera_pitch: float = _camera(0.0, "how far the camera looks down, degrees", min=-45, max=45)

    num_workers: int | None = _output(
        None,
        "processes, each with the model in memory (default: one for each core, but 1 on a GPU); no influence"
        " on the files",
        read=int,
    )
    shard: Shard | None = setting(None, HELP, section="output", read=Shard.parse, flag={"metavar": "I/N"})
    merge: bool = _output(
        False, "label nothing, merge what all shards have done (the last one to end does that by itself)"
    )
    overwrite: bool = _output(False, "replace an earlier run in --out")


def options_of(flags: dict) -> LabelOptions:
    """The options of a command line. Raises InputError for what can't be used."""
    options = checked(LabelOptions(**flags))
    if options.camera is not None and options.camera_height is None:
        raise InputError("--camera needs --camera_height, how high above the ground it is, in metres")
    if options.camera is None and (options.camera_height is not None or options.camera_pitch):
        raise InputError("--camera_height and --camera_pitch belong to --camera, the field of view")
    if not options.split or set(options.split) & set("/\\*?[") or options.split.startswith("."):
        raise InputError(f"--split {options.split}: is no name of a folder; take train")
    return options
