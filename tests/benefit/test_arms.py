"""The data of an arm, and what each arm is said to be."""

import numpy as np

from benefit.arms import ARMS, RecipeSource, repainted_whole, trees_of
from benefit.options import parser
from data.frame import list_frames
from streets.scenes import write_streets


def test_whole_repainted_frames_show_the_raw_annotation_and_new_pixels_only_in_one_instance(tmp_path):
    write_streets(tmp_path / "tree", 2, 0, (256, 128), seed=1)
    source = RecipeSource(tmp_path / "tree", {}, 0, 1, "1", "cpu")
    found = repainted_whole(tmp_path / "out", source)
    (tree,) = trees_of(tmp_path / "out")
    frames = list_frames(tree, "train")
    assert len(frames) == found["frames"] >= 2
    shape = (128, 256)
    raws = [(frame.read_maps(), frame.read_image(shape)) for frame in list_frames(tmp_path / "tree", "train")]
    for frame in frames:
        (labels, ids), image = frame.read_maps(), frame.read_image(shape)
        ((_, raw),) = [one for one in raws if all(map(np.array_equal, one[0], (labels, ids)))]
        changed = np.unique(ids[(image != raw).any(2)])
        assert len(changed) == 1 and changed[0] >= 24000


def test_help_names_every_arm_and_the_factor_in_which_it_differs():
    shown = parser().format_help()
    assert all(f"  {name}: {arm.meaning}" in shown and arm.differs in shown for name, arm in ARMS.items())
    assert all(arm.differs for name, arm in ARMS.items() if name != "real")
