"""cv_inpaint: the object removed, its pixels filled from around the mask.

Continues the surroundings inwards; good for small and distant objects, a smooth patch for large ones. The
annotation still says that the object is there, so this makes backgrounds and negative examples, no training
frames for its class.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from augment.paint.backends import Request
from augment.paint.blend import ring_of
from support.settings import setting

VERSION = "1"


@dataclass(frozen=True)
class InpaintSettings:
    """The settings of `cv_inpaint`."""

    method: str = setting("telea", "rule by which pixels are filled; ns: Navier-Stokes", ("telea", "ns"))
    side: int = setting(64, "larger masks are filled at so many pixels of their longer side", min=16)
    halo: float = setting(0.03, "not believed either around the mask, in parts of its longer side", min=0)
    shadow: float = setting(0.1, "and below it, in parts of its height", min=0)
    grain: float = setting(1.0, "noise in place of fine texture; 0: none, samples are equal", min=0)


class Inpaint:
    """See the module."""

    def __init__(self, name: str, settings: InpaintSettings, db_root: Path | None, split: str):
        self.name, self.version, self.settings = name, VERSION, settings
        self.details = {"params": asdict(settings)}

    @staticmethod
    def defaults(name: str) -> InpaintSettings:
        return InpaintSettings()

    def fill(self, request: Request) -> list[np.ndarray]:
        """See `Backend`. Samples differ only by their grain."""
        x, y, w, h = cv2.boundingRect(request.mask.view(np.uint8))
        margin = max(8, max(w, h) // 4)
        window = np.s_[max(y - margin, 0) : y + h + margin, max(x - margin, 0) : x + w + margin]
        rgb, mask = request.rgb[window], np.ascontiguousarray(request.mask[window])
        smooth = self.smooth(rgb, mask, w, h)
        ring = ring_of(mask)
        without = np.where(mask[..., None], smooth, rgb)
        fine = rgb[ring].astype(np.float32) - cv2.GaussianBlur(without, (0, 0), 1.5)[ring]
        deviation = self.settings.grain * (fine.std() if fine.size else 0.0)
        images = []
        for sample in range(request.count):
            grain = request.generator(sample).standard_normal(mask.shape, np.float32) * deviation
            image = request.rgb.copy()
            filled = np.clip(smooth[mask] + grain[mask][:, None] + 0.5, 0, 255)
            image[window][mask] = np.uint8(filled)
            images.append(image)
        return images

    def smooth(self, rgb: np.ndarray, mask: np.ndarray, w: int, h: int) -> np.ndarray:
        """The image (a,b,3) uint8 with the mask filled, without fine texture; w, h: size of its box."""
        scale = min(1.0, self.settings.side / max(w, h))
        height, width = mask.shape
        size = max(1, round(width * scale)), max(1, round(height * scale))
        reach = 1 + round(self.settings.halo * max(w, h))
        below = round(self.settings.shadow * h)
        kernel = np.zeros((2 * (reach + below) + 1, 2 * reach + 1), np.uint8)
        kernel[: 2 * reach + below + 1] = 1
        hole = cv2.dilate(mask.view(np.uint8), kernel, anchor=(reach, reach + below))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        small_hole = np.uint8(cv2.resize(hole * 255, size, interpolation=cv2.INTER_AREA) > 0)
        flags = cv2.INPAINT_TELEA if self.settings.method == "telea" else cv2.INPAINT_NS
        filled = cv2.inpaint(small, small_hole, 5, flags)
        return cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
