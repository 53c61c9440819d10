"""The official Cityscapes tools, as tests ask them."""

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage

from data.frame import POLYGONS, Frame


def official_maps(polygons: str | bytes) -> tuple[np.ndarray, np.ndarray]:
    """Label and instance map (H,W) that they draw of the content of a polygons.json."""
    annotation = Annotation()
    annotation.fromJsonText(polygons)
    return tuple(np.asarray(create(annotation, "ids")) for create in (createLabelImage, createInstanceImage))


def assert_drawn_as_by_official_tools(frame: Frame) -> None:
    """Both maps of a frame are what they draw of its polygons."""
    drawn = official_maps(frame.annotation_path(POLYGONS).read_text())
    assert all(map(np.array_equal, drawn, frame.read_maps()))
