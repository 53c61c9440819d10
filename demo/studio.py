"""What all sessions of the page share: the models, the scenes to choose from, and what paints."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from augment.paint.folder import CutoutFolder
from augment.paint.painter import Painter, Rendering
from augment.placement.options import Insertion
from augment.placement.places import Inserter, column, needed_fits, working_maps
from augment.placement.scene import EditedImage, read_image
from data.frame import Frame, list_frames
from demo.options import STREETS, DemoOptions
from demo.state import DemoScene, Wishes
from distributed import choose_device
from label.classes import known_labels
from label.labeller import Labeller, Wanted
from label.models import PretrainedModel
from streets.scenes import write_streets
from support.errors import InputError, warn
from support.processes import Pool

ATTEMPTS = 40  # places tried when chance is asked
SHAPE_SLIDERS = 4  # directions of z_appr that have a slider
SHAPE_DRAWS = 64  # masks that tell which directions these are
TRAIN = "train"  # the split that pixels are borrowed from


class Studio:
    """Everything that is loaded once; sessions only read it."""

    def __init__(self, options: DemoOptions, workers: int = 0):
        """Make the built-in scenes and the bank of instances if they aren't there yet, and load the models.

        workers: processes for that. Raises InputError for checkpoints and trees that can't be used.
        """
        device = str(choose_device(options.device))
        cutout = Rendering("cutout")  # with it a model may have places alone
        loaded = Inserter(
            Insertion(checkpoint=options.checkpoint, attempts=ATTEMPTS, device=device, rendering=cutout)
        )
        models = loaded.models
        for name, model in models.items():
            if not model.where.has_density:
                raise InputError(
                    f"--checkpoint: the {name} model has no density of places, which a click asks; take one"
                    " trained with --where distribution"
                )
        root = Path(options.db_root or options.streets)
        if not options.db_root:
            write_streets(root, *STREETS, max(workers, 1), title="street scenes, made once")
        self.split = options.split
        self.frames = list_frames(root, self.split, skip_incomplete=True)[: options.scenes]
        self.camera = options.camera
        cameras = options.camera == "cityscapes" or all(frame.camera_path for frame in self.frames)
        fits = needed_fits(self.frames, models, cameras)
        self.inserter = loaded.changed(None, fits=fits)
        self.labeller = None
        if options.segmenter:
            segmenter = PretrainedModel(options.segmenter, device=device)
            self.labeller = Labeller.of(Wanted.of_model(segmenter, known_labels(None)))
        self.draws_shapes = all(model.what.draws_shapes for model in models.values())
        self.painters = {"overlay": self._painter(root, "overlay", options.bank)} if self.draws_shapes else {}
        names = ("cutout", "swap") if self.draws_shapes else ("cutout",)
        with_bank = {name: self._painter(root, name, options.bank) for name in names}
        try:
            with Pool(workers) as pool:
                with_bank["cutout"].rendering.prepare(partial(pool.with_bar, "instances to show"))
            for painter in with_bank.values():
                painter.load()
            self.painters = with_bank | self.painters
        except InputError as error:
            if not self.draws_shapes:
                raise
            warn(f"new objects get a flat colour: {error}")
        # By class; none where shapes come with the pixels.
        self.directions = {
            name: shape_directions(self.inserter, self.frames[0], name)
            for name in (models if self.draws_shapes else ())
        }

    def _painter(self, root: Path, name: str, bank: str) -> Painter:
        split = TRAIN if (root / "gtFine" / TRAIN).is_dir() else self.split
        return Painter(Rendering(name, db_root=str(root), split=split, bank=bank), seed=0)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that can be put into a scene."""
        return tuple(self.inserter.models)

    def scene(self, number: int) -> DemoScene:
        """Scene 0, 1, ... of those on offer. Raises InputError if its files are bad."""
        frame = self.frames[number]
        return DemoScene(frame, read_image(frame, rgb=frame.image_path is not None, camera=self.camera))

    def inserter_for(self, image: EditedImage, wishes: Wishes, seed: int = 0) -> Inserter:
        """What puts objects on an image in the way that is wished for.

        Raises InputError for an image without pixels if the models draw no shapes.
        """
        if image.rgb is None and not self.draws_shapes:
            raise InputError(
                "The model knows places alone: what stands there comes with pixels, add the image"
            )
        painter = None
        if image.rgb is not None:
            painter = self.painters[wishes.pixels] if wishes.own is None else painter_of_own(wishes.own)
            painter = painter.with_seed(seed)
        return self.inserter.changed(
            painter, filters=wishes.filters, temperature=wishes.temperature, seed=seed
        )


def painter_of_own(own: CutoutFolder) -> Painter:
    """What paints somebody's own object, as often as it is put there."""
    return Painter(Rendering("cutout", cutouts=own), seed=0, repeats=True)


@torch.no_grad()
def shape_directions(inserter: Inserter, frame: Frame, class_name: str) -> np.ndarray:
    """The directions of z_appr that change masks most, the strongest first: (SHAPE_SLIDERS,z_dim) float64.

    Orthonormal; told by a linear fit of masks to their noise, all at one place of a frame.
    """
    model = inserter.models[class_name]
    maps = frame.read_maps()
    small, _ = working_maps(*maps, model.maps.small, inserter.device)
    foot, median = torch.tensor([[0.5, 0.75]]), torch.zeros(1, 2)
    theta = model.where.density(small).theta_at(foot.to(inserter.device), median.to(inserter.device)).float()
    noise = np.random.default_rng(0).standard_normal((SHAPE_DRAWS, model.options.z_dim_appr))
    big = [
        tensor.expand(SHAPE_DRAWS, -1, -1) for tensor in working_maps(*maps, model.maps.big, inserter.device)
    ]
    masks = model.what.sample(*big, theta.expand(SHAPE_DRAWS, -1), column(noise, inserter.device))
    masks = masks.flatten(1).double().cpu().numpy()
    change, *_ = np.linalg.lstsq(noise, masks - masks.mean(0), rcond=None)
    directions = np.linalg.svd(change, full_matrices=False)[0].T[:SHAPE_SLIDERS]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return directions * np.sign(largest)  # which of the two signs is no one's choice otherwise
