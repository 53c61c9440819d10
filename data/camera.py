"""A pinhole camera above flat ground, in the layout of the official Cityscapes `camera` files."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cityscapes import Frame
from support.errors import InputError


@dataclass(frozen=True)
class Camera:
    """Focal lengths and principal point in pixels, height above the ground in metres, pitch in radians.

    A positive pitch looks down. Roll and yaw are zero: the street turns, not the camera.
    """

    fx: float
    fy: float
    u0: float
    v0: float
    height: float
    pitch: float

    @property
    def horizon(self) -> float:
        """Image row (pixels) where the ground plane vanishes."""
        return self.v0 - self.fy * np.tan(self.pitch)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) float (u, v) of street points (..., 3): right, above ground, ahead, in metres.

        Meant for points ahead of the camera: what is nearer than 0.1 m counts as 0.1 m away. Nothing is
        clipped to the image.
        """
        points = np.asarray(points, float)
        right, down, ahead = points[..., 0], self.height - points[..., 1], points[..., 2]
        cos, sin = np.cos(self.pitch), np.sin(self.pitch)
        depth = np.maximum(ahead * cos + down * sin, 0.1)
        image = np.empty((*points.shape[:-1], 2))
        image[..., 0] = self.u0 + self.fx * right / depth
        image[..., 1] = self.v0 + self.fy * (down * cos - ahead * sin) / depth
        return image

    def ground_depth(self, row: float) -> float:
        """Distance ahead in metres of the ground seen in an image row; infinite at and above the horizon."""
        slope = np.tan(np.arctan((row - self.v0) / self.fy) + self.pitch)
        return self.height / slope if slope > 0 else float("inf")

    def metric_height(self, top_row: float, foot_row: float) -> float:
        """Height in metres of a thing that stands upright on the ground between two image rows."""
        ahead = self.ground_depth(foot_row)
        return self.height - ahead * np.tan(np.arctan((top_row - self.v0) / self.fy) + self.pitch)

    def to_json(self) -> dict:
        """The camera in the official layout; x, y, z are the camera's place in the vehicle, in metres."""
        return {
            "extrinsic": {
                "baseline": 0.209313,
                "pitch": self.pitch,
                "roll": 0.0,
                "x": 1.7,
                "y": 0.1,
                "yaw": 0.0,
                "z": self.height,
            },
            "intrinsic": {"fx": self.fx, "fy": self.fy, "u0": self.u0, "v0": self.v0},
        }

    @classmethod
    def from_json(cls, camera: dict) -> "Camera":
        """Read an official camera dictionary. Raises KeyError where a field is missing."""
        inner, outer = camera["intrinsic"], camera["extrinsic"]
        return cls(inner["fx"], inner["fy"], inner["u0"], inner["v0"], outer["z"], outer["pitch"])


def read_camera(frame: Frame) -> Camera | None:
    """The camera of a frame, or None if it has no file. Raises InputError if the file can't be used."""
    folder = frame.label_path.parent  # db_root/gtFine/split/city
    root = folder.parents[2]
    path: Path = root / "camera" / folder.parent.name / folder.name / f"{frame.name}_camera.json"
    try:
        return Camera.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a camera file ({error}); copy it from the archive again") from None
