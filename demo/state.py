"""What a session of the page holds. Nothing of it is ever written to: an action makes another `State`."""

from dataclasses import dataclass, field

import numpy as np

from augment.paint.folder import CutoutFolder
from augment.paint.painter import Shown
from augment.placement.filters import Filters
from augment.placement.options import Insertion
from augment.placement.scene import EditedImage
from data.frame import Frame
from data.geometry import MaskPatch

PIXELS = {
    "cutout": "other instances as they are",
    "swap": "pixels of other instances in the drawn mask",
    "overlay": "flat colour",
}
FORCED = Filters(rules=(), may_hide=True)  # put it there whatever the filters say


@dataclass(frozen=True, eq=False)
class DemoScene:
    """A scene that objects are put into."""

    frame: Frame
    image: EditedImage  # as it was read


@dataclass(frozen=True, eq=False)
class DemoObject:
    """An object that stands in the scene."""

    class_name: str
    theta: np.ndarray  # (6,) float64, the place
    z_appr: np.ndarray  # (z_dim,) float32, the noise of the shape
    patch: MaskPatch  # its whole mask on the image
    facts: dict  # what `Inserter.put` tells of it
    shown: Shown | None = None  # the cut-out that it is
    own: CutoutFolder | None = None  # where that comes from, if somebody uploaded it

    @property
    def label(self) -> str:
        """What it is in the maps, by its official name."""
        return self.facts.get("label", self.class_name)


@dataclass(frozen=True)
class OwnObject:
    """What was given for an object of somebody's own, piece by piece, and the cut-out that follows."""

    path: str | None = None
    metres: float = 0  # its height; 0: as the class
    no_class: bool = False  # labelled dynamic
    cutouts: CutoutFolder | None = None  # of it alone; None: new objects are the model's


@dataclass(frozen=True)
class Wishes:
    """What the page's switches say when an action is asked for."""

    class_name: str
    filters: Filters = field(default_factory=Filters)
    temperature: float = Insertion.temperature
    pixels: str = "swap"  # one of PIXELS
    own: CutoutFolder | None = None  # what is shown instead


@dataclass(frozen=True, eq=False)
class State:
    """A scene, the objects in it in their order, and what is to be said about the last action."""

    scene: DemoScene
    steps: tuple[EditedImage, ...]  # the image with 0, 1, ... objects
    objects: tuple[DemoObject, ...] = ()
    chosen: int | None = None  # the object that sliders and buttons work on
    own: OwnObject = OwnObject()  # what the next object is to show
    draws: int = 0  # how often chance was asked; the next seed
    message: str = ""
    earlier: tuple["State", ...] = ()  # for undo, the latest last
    moving: bool = False  # whether the last change was one of many that a dragged slider makes

    @property
    def image(self) -> EditedImage:
        """The scene with all objects."""
        return self.steps[-1]


def begin(scene: DemoScene) -> State:
    """A scene without new objects."""
    height, width = scene.image.label_ids.shape
    message = f"Scene {scene.frame.name}, {width}x{height} pixels. Click where an object is to stand."
    return State(scene, (scene.image,), message=message)
