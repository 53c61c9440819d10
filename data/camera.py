"""A pinhole camera above flat ground, in the layout of the official Cityscapes `camera` files."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np

from support.settings import setting


@dataclass(frozen=True)
class Camera:
    """Focal lengths and principal point in pixels, height above the ground in metres, pitch in radians.

    A positive pitch looks down. Roll and yaw are zero: the street turns, not the camera. `assumed` names the
    published calibration that stands in for an image's own file; empty where there is nothing to assume.
    """

    fx: float
    fy: float
    u0: float
    v0: float
    height: float
    pitch: float
    assumed: str = ""

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

    def scaled(self, across: float, down: float) -> "Camera":
        """The camera of the same image enlarged by factors across and down."""
        return replace(self, fx=self.fx * across, u0=self.u0 * across, fy=self.fy * down, v0=self.v0 * down)

    def top_row(self, height: float, foot_row: float) -> float:
        """The row (pixels) where a thing ends that is `height` metres high and stands on the ground at a row.

        The inverse of `metric_height`; the foot must be below the horizon.
        """
        slope = (self.height - height) / self.ground_depth(foot_row)
        return self.v0 + self.fy * np.tan(np.arctan(slope) - self.pitch)

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


# What --camera may be. An image's own camera file always comes first.
CAMERA_CHOICES = {
    "auto": "no camera for images without a camera file",
    "cityscapes": "for these the published calibration of Cityscapes, an assumption that the output names",
}


def camera_setting(section: str = ""):
    """The setting `camera` of a program (`support.settings`), one of CAMERA_CHOICES."""
    meanings = "; ".join(f"{choice}: {meaning}" for choice, meaning in CAMERA_CHOICES.items())
    return setting("auto", meanings, tuple(CAMERA_CHOICES), section)


# Calibrations as published in Cityscapes' camera files. That of aachen serves as the standard; frankfurt,
# most of val, has another, whose horizon lies 19 rows higher: the standard one makes its persons 2.5 m high.
_PUBLISHED_SIZE = (2048, 1024)
_STANDARD = Camera(2262.52, 2265.30, 1096.98, 513.137, height=1.22, pitch=0.038, assumed="standard")
_OF_CITY = {
    "frankfurt": Camera(2268.36, 2225.54, 1048.64, 519.277, height=1.18, pitch=0.05, assumed="frankfurt"),
}


def published_camera(name: str, width: int, height: int) -> Camera:
    """The published calibration for an image of width x height pixels; its name begins with the city."""
    return _calibration(name).scaled(width / _PUBLISHED_SIZE[0], height / _PUBLISHED_SIZE[1])


def _calibration(name: str) -> Camera:
    return _OF_CITY.get(name.split("_")[0], _STANDARD)


def assumptions(names: Iterable[str]) -> dict[str, dict]:
    """The published calibrations that stand in for the camera files of the images `names`.

    By calibration: how many `images`, and its numbers at 2048x1024.
    """
    counts = Counter(map(_calibration, names))
    return {
        camera.assumed: {"images": count, **{k: v for k, v in asdict(camera).items() if k != "assumed"}}
        for camera, count in sorted(counts.items(), key=lambda item: item[0].assumed)
    }


def assumption_lines(assumed: dict[str, dict]) -> list[str]:
    """What `assumptions` returns, a line for each calibration."""
    return [
        f"camera assumed, not read, for images without a camera file ({one['images']}): Cityscapes' published"
        f" calibration '{name}' (at 2048x1024 fx {one['fx']}, fy {one['fy']}, u0 {one['u0']}, v0 {one['v0']};"
        f" {one['height']} m high, pitch {one['pitch']} rad)"
        for name, one in assumed.items()
    ]
