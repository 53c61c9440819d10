"""Inputs that tests of several packages read; whoever changes one copies it first."""

import signal
from pathlib import Path

import numpy as np
import pytest

from data.frame import Frame
from data.writer import LabelledPolygon, rasterise
from engine.records import write_outputs
from streets.scenes import write_streets
from tests.mini_frames import mini_image, mini_objects, write_mini
from tests.miniature import write_miniature
from tests.town import CAMERA, write_checkpoint


def pytest_configure():
    """Ctrl-C is tested, also in a job that a shell began in the background, where it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny model of persons, untrained."""
    return write_checkpoint(tmp_path_factory.mktemp("person"))


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    """The tree of `write_mini`."""
    root = tmp_path_factory.mktemp("mini")
    write_mini(root)
    return root


@pytest.fixture(scope="session")
def behind_cars(tmp_path_factory) -> Path:
    """Four streets as in `write_mini`, with a car in front of where persons are inserted."""
    root = tmp_path_factory.mktemp("behind_cars")
    for index in range(4):
        objects = mini_objects(index)
        shape = np.array([[60, 84], [70, 70], [150, 70], [160, 84], [160, 112], [60, 112]], np.int32)
        objects.append(LabelledPolygon("car", shape))
        rgb, maps = mini_image(objects, index), rasterise(objects, 256, 128)
        frame = Frame.official(root, "train", "ash", index, 19)
        write_outputs(root, frame.files(rgb, objects, *maps, CAMERA))
    return root


@pytest.fixture(scope="session")
def street_scenes(tmp_path_factory) -> Path:
    """Eight built-in scenes of 512x256 pixels to insert into, and one to validate on."""
    root = tmp_path_factory.mktemp("street_scenes")
    write_streets(root, 8, 1, (512, 256), seed=0)
    return root


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """A miniature data set and a cache folder, shared by all that train."""
    root = tmp_path_factory.mktemp("data")
    write_miniature(root / "set", "train", count=5, seed=1)
    write_miniature(root / "set", "val", count=3, seed=2)
    return root
