"""`InsertInstances`: what scripts.insert does to a tree, done to a sample on its way into training."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch
from torch.utils.data import get_worker_info
from torchvision.transforms import v2

from augment.paint.bank import build_bank, open_bank
from augment.paint.folder import read_folder
from augment.paint.painter import WITH_BANK, Rendering
from augment.placement.options import Insertion, InsertOptions
from augment.placement.places import Inserter, count_classes
from augment.placement.plan import plan
from data.camera import CAMERA_CHOICES
from data.frame import list_frames
from data.labels import LAST_ID
from insertion.samples import EditedSample
from support.checkpoints import find_checkpoint
from support.errors import InputError
from support.processes import Pool
from support.settings import checked

_threads: list[int] = []  # of cv2, while a process forks


def _end_threads() -> None:
    _threads.append(cv2.getNumThreads())
    cv2.setNumThreads(1)


def _allow_threads() -> None:
    cv2.setNumThreads(_threads.pop())


if hasattr(os, "register_at_fork"):  # else a forked worker would wait for threads of cv2 that it has not got
    os.register_at_fork(before=_end_threads, after_in_parent=_allow_threads, after_in_child=_allow_threads)

RENDERS = ("none", "overlay", *WITH_BANK)  # what paints fast enough for a training loop


class InsertInstances(v2.Transform):
    """Puts new objects on a sample as `scripts.insert` puts them on a tree: places, filters, masks, pixels.

    Takes (image, target), and returns them with the new objects. What it needs:

    - image: a uint8 RGB image, a PIL image or a tensor (3,H,W), such as `tv_tensors.Image`.
    - a label map of the whole image in Cityscapes label ids (0..33, 255 for licence plates), because the
      model reads the scene in it: where road is, where houses are. What `void` names counts as 0.
    - the instances.

    The target may be

    - a pair [instance map, label map], each a PIL image, an array or a tensor (H,W) or (1,H,W): what
      `torchvision.datasets.Cityscapes(target_type=["instance", "semantic"])` gives; of that as
      `wrap_dataset_for_transforms_v2` wraps it the first is a dictionary like the following.
    - a dictionary with "masks" (N,H,W) or (N,1,H,W) and "labels" (N,) in Cityscapes label ids, so place this
      transform before one that renumbers them. The label map is "semantic" (H,W) or (1,H,W) or, if there is
      no such entry, what the masks say, which then must cover the whole image, surfaces included, as those
      of the wrapped data set do with target_type="instance". "boxes", "area" and "iscrowd" are kept true if
      there; instances marked as crowd count as groups. "camera" may hold a `data.camera.Camera`. All else
      stays as it is.

    Instances that a new object hides in part have their masks and boxes cut; those it hides altogether
    leave the target. New ones come last. A new box ends behind its last pixel, x1 = x0 + width; of the others
    each side moves by as much as that of the mask. If nothing fits, or by chance, the sample is returned as
    it came.

    Everything random follows from `seed` and a name of 16 hexadecimal digits, which torch's generator draws
    for each sample: in a loader's workers it follows from torch's seed. The same seed and name give the maps
    and the image that scripts.insert gives for a frame of that name. Can be pickled; each process loads
    the models once, with its first sample.
    """

    def __init__(
        self,
        checkpoint: str | Path | Sequence[str | Path],
        per_image: tuple[int, int] = (0, 3),
        p: float = 0.5,
        render: str = "swap",
        bank: str | Path | None = None,
        *,
        classes: Sequence[str] | dict[str, int] | None = None,
        cutouts: str | Path | None = None,
        camera: str = InsertOptions.camera,
        shadow: float = InsertOptions.shadow,
        void: Sequence[int] = (),
        device: str = "cpu",
        **settings,
    ):
        """Looks for the files; loads nothing yet.

        Args:
          checkpoint: run folder, state-*.pt or builtin:NAME, or several, each for other classes.
          per_image: min and max number of objects tried in a sample.
          p: fraction of the samples that are worked on, 0..1.
          render: how new objects are painted: cutout (instances as they are), swap, recolor, overlay (flat
            colours), none (only the maps and masks change, so the image no longer agrees with them).
          bank: file of the instances that cutout, swap and recolor show; `make_bank` makes one.
          classes: what each object is drawn from, evenly, by default all classes of the checkpoints; or how
            often each is drawn beside the others, such as `class_counts` of a data set, of which classes
            that no checkpoint has are passed over.
          cutouts: folder of cut-outs of your own (`augment.paint.folder`) that cutout shows instead of a
            bank, or beside it if there is one.
          camera: how heights in metres are judged where the target has no camera, see CAMERA_CHOICES.
          shadow: darkest part of a contact shadow, 0..1.
          void: label ids above 33 that mean nothing in the targets, such as 255; else they are refused.
          device: of the models. CUDA and forked workers exclude each other.
          settings: others of `augment.placement.options.Insertion`, None for those of scripts.insert: seed
            (see the class), attempts (places tried for each object), temperature (of the density of places),
            z_spatial and z_appr (fixed noise), filters (`augment.placement.filters.Filters`, the filters that
            objects must pass), fits (by class `data.geometry.fit_heights`, for classes without a camera).

        Raises InputError for values out of range and for files that can't be used.
        """
        super().__init__()
        if not (0 <= per_image[0] <= per_image[1] and 0 <= p <= 1):
            raise InputError(f"per_image {per_image}, p {p}: wanted are 0 <= min <= max and 0 <= p <= 1")
        if render not in RENDERS:
            raise InputError(f"render {render!r}: choose {', '.join(RENDERS)}")
        if camera not in CAMERA_CHOICES:
            raise InputError(f"camera {camera!r}: choose {', '.join(CAMERA_CHOICES)}")
        if cutouts is not None and render != "cutout":
            raise InputError(f"cutouts belong to the render cutout, not to {render}")
        if (render in WITH_BANK) != (bank is not None or cutouts is not None):
            raise InputError(f"bank: a file of instances belongs to {' and '.join(WITH_BANK)}, see make_bank")
        if bank is not None:
            open_bank(Path(bank))
        rendering = None
        if render != "none":
            folder = None if cutouts is None else read_folder(Path(cutouts))
            rendering = Rendering(
                render, shadow=shadow, bank=str(bank), device=device, cutouts=folder, beside=bank is not None
            )
        paths = [checkpoint] if isinstance(checkpoint, str | Path) else checkpoint
        if not all(LAST_ID < label < 256 for label in void):
            raise InputError(f"void {tuple(void)}: wanted are label ids from {LAST_ID + 1} to 255")
        self.counted = isinstance(classes, dict)
        self.classes = classes if classes is None or self.counted else dict.fromkeys(classes, 1)
        if self.classes is not None and not any(count > 0 for count in self.classes.values()):
            raise InputError("classes: none is drawn; name some, or leave it out")
        self.void = tuple(void)
        self.per_image, self.p, self.camera = tuple(per_image), p, camera
        found = tuple(str(find_checkpoint(path)) for path in paths)
        settings = {name: value for name, value in settings.items() if value is not None}
        self.insertion = checked(
            Insertion(checkpoint=found, rendering=rendering, device=device, **settings), "InsertInstances"
        )
        checked(self.insertion.filters, "InsertInstances")
        self._loaded: tuple[int, Inserter] | None = None  # and the process it belongs to

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_loaded": None}

    def extra_repr(self) -> str:
        return f"per_image={self.per_image}, p={self.p}, checkpoints={self.insertion.checkpoint}"

    def forward(self, *inputs):
        """(image, target), as two arguments or one, with new objects; see the class.

        Raises InputError for a sample that lacks what is needed.
        """
        pair = inputs[0] if len(inputs) == 1 else inputs
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise InputError("InsertInstances: takes (image, target), see its description")
        image, target = pair
        chosen, name = torch.rand(()).item() < self.p, draw_name()
        if not chosen:
            return image, target
        sample = EditedSample.of(image, target, name, self.camera, self.void)
        with one_thread():
            inserter = self._inserter()
            (classes,) = plan([name], self._shares(inserter), inserter.settings.seed, self.per_image)
            inserter.edit(sample.scene, classes)
        return sample.after() if sample.scene.new_ids else (image, target)

    def _shares(self, inserter: Inserter) -> dict[str, int]:
        """How often each class is drawn. InputError for one that no checkpoint has, or nothing to show.

        Counts may be those of a whole data set: of them, classes without a checkpoint are passed over.
        """
        wanted = dict.fromkeys(inserter.models, 1) if self.classes is None else self.classes
        shares = {name: count for name, count in sorted(wanted.items()) if count}
        lacking = [name for name in shares if name not in inserter.models]
        if self.counted and len(lacking) < len(shares):
            shares = {name: count for name, count in shares.items() if name not in lacking}
        elif lacking:
            raise InputError(
                f"InsertInstances: classes: no checkpoint for {lacking[0]}, only for"
                f" {', '.join(inserter.models)}; add one, or leave it out"
            )
        if inserter.settings.rendering:
            inserter.settings.rendering.check_classes(shares)
        return shares

    def _inserter(self) -> Inserter:
        """The models, loaded once in each process: a forked one can't share an open bank."""
        if self._loaded is None or self._loaded[0] != os.getpid():
            if get_worker_info() is not None:
                cv2.setNumThreads(1)
            with torch.random.fork_rng(devices=[]):  # making networks draws from torch's generator
                inserter = Inserter(self.insertion)
            if inserter.painter:
                inserter.painter.load()
            self._loaded = os.getpid(), inserter
        return self._loaded[1]


def draw_name() -> str:
    """A name for a sample, by torch's generator: 16 hexadecimal digits."""
    return f"{torch.randint(2**63 - 1, ()).item():016x}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread, as scripts.insert has it: rounding depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def class_counts(db_root: str | Path, split: str) -> dict[str, int]:
    """Instances of each class in a split, told by at most 200 of its images.

    With them as `classes` of `InsertInstances` classes are drawn as often as the data have them. Raises
    InputError if the split has no images.
    """
    return count_classes(list_frames(db_root, split, skip_incomplete=True))


def make_bank(db_root: str | Path, split: str, path: str | Path, workers: int = 0) -> Path:
    """Keep the instances of a split in a file for `InsertInstances(bank=...)`; the path.

    A file that is up to date is left alone. workers: processes; with any, the calling script needs the usual
    `if __name__ == "__main__"`. Raises InputError if the split has no images or no instances.
    """
    with Pool(workers) as pool:
        build_bank(Path(db_root), split, Path(path), pool.map)
    return Path(path)
