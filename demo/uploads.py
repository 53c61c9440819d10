"""What a person brings along: a scene of maps or of a picture alone, and an object to put into scenes.

Raises InputError, naming a file as it was called, for one that can't be used.
"""

from dataclasses import replace
from pathlib import Path

from augment.paint.folder import folder_of_one
from augment.placement.scene import EditedImage
from data.camera import published_camera
from data.frame import Frame, official_name
from data.images import decode_image, fitting
from data.outlines import Outlines
from demo.state import DemoScene, State, begin
from demo.studio import Studio
from label.labeller import Labeller
from label.pictures import read_picture
from support.errors import InputError
from support.files import read_bytes

UPLOADED = "upload_000000_000000"  # for maps whose file names are no frame's


def own_scene(
    studio: Studio, label: str | None, instance: str | None, image: str | None, cityscapes: bool
) -> State:
    """As `upload`; of an image alone the segmenter makes the maps, if there is one."""
    if image and not label and not instance and studio.labeller is not None:
        return upload_picture(studio.labeller, Path(image), cityscapes)
    return upload(label, instance, image, cityscapes)


def upload(label: str | None, instance: str | None, image: str | None, cityscapes: bool) -> State:
    """A scene of a person's own: paths of label map, instance map and, if there is one, the image.

    cityscapes: whether Cityscapes' camera took it, so that heights in metres are known. Raises InputError,
    naming the files as they were called, if one is missing or bad, or if they don't belong together.
    """
    if not label or not instance:
        raise InputError(
            "Two maps are needed: label ids (8-bit grey PNG) and instance ids (16-bit grey PNG); a page"
            " that was started with --segmenter takes an image alone"
        )
    name = _frame_name(label)
    frame = Frame.of_maps(Path(label), Path(instance), name)
    try:
        label_ids, instance_ids = frame.read_maps()
    except InputError as error:
        sentence = str(error).replace(f"list them in {frame.void_path}", "set them to 0")
        for path in (frame.label_path, frame.instance_path):
            sentence = sentence.replace(str(path), path.name)
        raise InputError(sentence) from None
    rgb = None
    if image:
        path = Path(image)
        rgb = fitting(Path(path.name), decode_image(Path(path.name), read_bytes(path)), label_ids.shape)
    camera = published_camera(name, *label_ids.shape[::-1]) if cityscapes else None
    return begin(DemoScene(frame, EditedImage(name, label_ids, instance_ids, rgb, camera)))


def _frame_name(file_name: str) -> str:
    """The official name of a frame in that of its file, or a name for all others."""
    try:
        return official_name(file_name)
    except ValueError:
        return UPLOADED


def upload_picture(labeller: Labeller, path: Path, cityscapes: bool) -> State:
    """A scene of a picture alone. Raises InputError, naming the file as it was called, if it is bad."""
    try:
        rgb, _ = read_picture(path)
        maps = labeller.maps(rgb)
    except (InputError, ValueError) as error:
        raise InputError(str(error).replace(str(path), path.name)) from None
    name = _frame_name(path.name)
    frame = Frame(None, "", name.split("_")[0], name)
    camera = published_camera(name, *maps.label_ids.shape[::-1]) if cityscapes else None
    image = EditedImage(name, maps.label_ids, maps.instance_ids, rgb, camera, Outlines(tuple(maps.objects)))
    return begin(DemoScene(frame, image))


def take_object(studio: Studio, state: State, **given: str | float | bool | None) -> State:
    """Let the next objects show a cut-out; given: the fields of `OwnObject` that changed.

    path: PNG with an alpha channel; None: as before. Raises InputError, naming the file as it was called, if
    it is none.
    """
    own = replace(state.own, **given)
    if not own.path:
        message = state.message if state.own.path is None else "New objects are the model's again."
        return replace(state, own=replace(own, cutouts=None), message=message)
    height, label = (own.metres, own.metres) if own.metres > 0 else None, "dynamic" if own.no_class else ""
    try:
        cutouts = folder_of_one(Path(own.path), studio.classes, label, height)
    except InputError as error:
        raise InputError(str(error).replace(own.path, Path(own.path).name)) from None
    cutouts.cutout(0)  # read now: uploads don't stay for ever
    width, length = cutouts.table.size[0].tolist()
    what = [
        f"{width}x{length} pixels",
        *([f"{own.metres:g} m high"] if height else []),
        *([label] if label else []),
    ]
    if height and state.image.camera is None:
        what.append("but this scene has no camera, so it is as high as the class is there")
    own = replace(own, cutouts=cutouts)
    return replace(state, own=own, message=f"Your cut-out: {', '.join(what)}. Click where it is to stand.")
