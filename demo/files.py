"""What a session takes home: a zip with a Cityscapes tree of one frame, as the official readers want it."""

import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from augment.placement.scene import contents, new_frame
from data.coco import write_coco
from demo.state import State
from demo.studio import TRAIN
from engine.records import MANIFEST, write_outputs
from support.errors import InputError


def write_zip(state: State, path: Path) -> Path:
    """Write image, labelIds, instanceIds, color, COCO JSON and what is known of each object; the path.

    Also, where the source has them, polygons and camera. Raises InputError if nothing was inserted.
    """
    if not state.objects:
        raise InputError("There is nothing to download yet: put an object into the scene first")
    image, frame = state.image, state.scene.frame
    lines = [
        {
            "image": frame.name,
            "class": one.class_name,
            "z_appr": one.z_appr.tolist(),
            **one.facts,
            **image.seen(number),
        }
        for number, one in enumerate(state.objects, 1)
    ]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        new = new_frame(frame, root, frame.split or TRAIN, beside=False)
        write_outputs(root, contents(image, frame, new))
        write_coco(root, new.split, [new], {frame.name: tuple(image.new_ids)})
        (root / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(root))
    return path
