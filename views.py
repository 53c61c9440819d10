"""Label maps, boxes and masks as the networks see them.

Shapes: B images a batch, h x w the small map, H x W the big map, cy x cx the compact mask.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from layers.canvas import Canvas
from loader.pairs import Batch
from networks import edge_map, place, place_box
from options import Options


@dataclass(frozen=True)
class Views:
    """What a step derives from the batch alone, once for all its forward passes (no gradient).

    Without a pair of images, for which there has to be a what module, nothing.
    """

    batch: Batch
    real_small: Canvas | None = None  # x+ as the where module sees it
    cond_small: Canvas | None = None  # x likewise
    real_boxed_big: Canvas | None = None  # x+ with the real box: the what module's input
    cond_big: Canvas | None = None  # x


class Maps:
    """Makes canvases of one target class, at the sizes of one set of options; knows no weights."""

    def __init__(self, options: Options, networks: nn.ModuleDict):
        """networks: their parameters tell the dtype of masks and edges."""
        self.target = options.targets[0]  # the only one, but see `WhereWhat.of_class`
        self.small = (options.image_sizey_small, options.image_sizex_small)
        self.big = (options.image_sizey_big, options.image_sizex_big)
        self.compact = (options.compact_sizey, options.compact_sizex)
        self.box_ramp = options.box_ramp
        self._networks = networks

    def canvas(self, labels: Tensor, ids: Tensor) -> Canvas:
        """A scene from channels (B,h,w) uint8 and instance ids (B,h,w) int32."""
        edge = (edge_map(ids[:, None]) > 0).to(next(self._networks.parameters()).dtype)
        return Canvas(labels, edge, self.target.channel)

    def box(self, theta: Tensor, size: tuple[int, int]) -> Tensor:
        """Box mask (B,1,*size) in [0,1] of theta (B,6)."""
        return place_box(theta, size, self.compact, self.box_ramp)

    def compose(self, scene: Canvas, compact: Tensor, theta: Tensor) -> Canvas:
        """A scene (H x W) with a compact mask (B,1,cy,cx) placed on it and its edge drawn."""
        mask = place(compact, theta, tuple(scene.labels.shape[1:]))
        return replace(scene, mask=mask, drawn=edge_map(mask))

    def views(self, batch: Batch) -> Views:
        real, cond = batch.real, batch.cond
        if real is None:
            return Views(batch)
        return Views(
            batch,
            real_small=self.canvas(real.labels_small, real.ids_small),
            cond_small=self.canvas(cond.labels_small, cond.ids_small),
            real_boxed_big=self.canvas(real.labels_big, real.ids_big).paste(self.box(batch.theta, self.big)),
            cond_big=self.canvas(cond.labels_big, cond.ids_big),
        )
