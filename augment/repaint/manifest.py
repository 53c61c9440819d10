"""What the manifest of a synthesis run lists: its stages, and the keys of frames, instances and samples.

Raw files and COCO files are no items of a run: they follow from the tree as it is, whoever makes it.
"""

from data.frame import CAMERA_KIND, GT_KINDS, IMAGE_KIND, VOID_FILE, Frame
from engine.tree import Program

STAGES = ("select", "generate", "integrate")
STATUSES = ("ok", "skipped", "failed")
SYNTH = Program(
    "synth",
    "7",
    "synth.json",
    STAGES,
    (IMAGE_KIND, *GT_KINDS, CAMERA_KIND, "panorama", "annotations", "work", "score.json", VOID_FILE),
)


def instance_key(frame: Frame, instance_id: int) -> str:
    """ "city/seq/frame/instance" """
    return f"{frame.key}/{instance_id:05d}"


def sample_key(frame: Frame, instance_id: int, sample: int) -> str:
    """ "city/seq/frame/instance/sample", samples counting from 1."""
    return f"{instance_key(frame, instance_id)}/{sample:03d}"
