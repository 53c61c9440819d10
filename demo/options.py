"""The options of `scripts.demo`."""

from dataclasses import dataclass

from data.camera import camera_setting
from support.settings import setting

STREETS = (32, 12, (1024, 512), 0)  # built-in scenes: to borrow pixels from, to choose from; size; seed
SPLIT = "val"  # the scenes of it are shown: a model made on built-in scenes has not seen these


@dataclass(frozen=True)
class DemoOptions:
    """How the page is started."""

    checkpoint: tuple[str, ...] = setting(
        ("builtin:person", "builtin:car"),
        "run folders, state-*.pt or builtin:NAME, each for other classes",
        read=str,
        flag={"nargs": "+"},
    )
    db_root: str = setting("", "tree whose scenes are offered; none: built-in street scenes")
    split: str = setting(SPLIT, "split of that tree")
    camera: str = camera_setting()
    scenes: int = setting(STREETS[1], "scenes offered, the first of the split", min=1)
    streets: str = setting(
        "datasets/demo", "folder of the built-in scenes, which are made when it is used first"
    )
    bank: str = setting(
        "", "file to keep the instances in that new objects show (default: one in cache/ for each data set)"
    )
    segmenter: str = setting(
        "",
        "model of scripts.label, an ID on the hub or a folder; with it a picture of one's own needs no maps",
    )
    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 lets other machines in")
    port: int = setting(7860, "port to listen at", min=1, max=65535)
    share: bool = setting(False, "open a public link through gradio's servers too")
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
