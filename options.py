"""Every option of a training run: its default, its unit, its meaning.

Edit the defaults here (`db_root`, `target_class`), or give flags: `python main.py --db_root DIR`.
The order of precedence is: defaults below < --preset < --config FILE.yaml < command-line flags.
Options are built once, frozen, printed, saved with the run as options.yaml, and then only read.
The defaults are those of the published program (preset `paper`).
"""

import dataclasses
import math
from dataclasses import dataclass

import yaml

from data.labels import TARGET_CLASSES, TargetClass, classes_named
from support.errors import InputError, Parser
from support.settings import add_flags, changed, checked, read_yaml, setting

PLACE_NUMBERS = 4  # numbers of a place with where = distribution: x, y, height, aspect


@dataclass(frozen=True)
class Options:
    # ---- data -----------------------------------------------------------------------------------
    db_root: str = setting("datasets/cityscapes", "folder that holds gtFine/ (leftImg8bit/ is not needed)")
    target_class: str = setting(
        "person",
        f"class to insert: {', '.join(TARGET_CLASSES)}; with what none several (person,rider,car) or all",
    )
    group_instances: bool = setting(True, "group regions (id < 1000) may count as instances, as published")
    skip_bad_files: bool = setting(False, "go on without images whose files are broken")
    cache_dir: str = setting("cache", "folder for working-size maps and usable instances, made on first use")
    num_workers: int = setting(2, "processes that read data, 0 reads in the training process", min=0)

    # ---- sizes ----------------------------------------------------------------------------------
    image_sizex_small: int = setting(256, "width of the where module's map, pixels")
    image_sizey_small: int = setting(128, "height of the where module's map, pixels (4 times a power of two)")
    image_sizex_big: int = setting(1024, "width of the what module's map, pixels")
    image_sizey_big: int = setting(512, "height of the what module's map, pixels (4 times a power of two)")
    compact_sizex: int = setting(128, "width of the compact instance mask, pixels")
    compact_sizey: int = setting(128, "height of the compact mask, pixels (4 times a power of two)")

    # ---- networks -------------------------------------------------------------------------------
    gf_dim: int = setting(32, "channels of the first layer of encoders and generators", min=1)
    df_dim: int = setting(8, "channels of the first layer of the discriminators", min=1)
    z_dim_spatial: int = setting(4, "numbers in z_spatial, the noise of the place", min=1)
    z_dim_appr: int = setting(16, "numbers in z_appr, the noise of the shape", min=1)
    embed_dim_small: int = setting(128, "numbers in the where embedding", min=1)
    embed_dim_big: int = setting(512, "numbers in the what embedding", min=1)

    # ---- the where module -----------------------------------------------------------------------
    where: str = setting(
        "published",
        "how places are found: published (STN head, trained by discriminators) or distribution (a density of"
        " places, trained by likelihood)",
        ("published", "distribution"),
    )
    what: str = setting(
        "published",
        "how shapes are found: published, or none (places alone are learnt; shapes are taken from elsewhere)",
        ("published", "none"),
    )
    where_dim: int = setting(
        16, "channels of the density network's finest level; coarser ones have more", min=1
    )
    where_learning_rate: float = setting(2e-3, "Adam step size of the density network", above=0)
    where_weight_decay: float = setting(0.01, "decoupled weight decay of the density network", min=0)
    clear_weight: float = setting(
        0.0,
        "places are drawn with exp(-clear_weight * fraction of the box on things) times their learnt density",
        min=0,
    )

    # ---- optimisation ---------------------------------------------------------------------------
    epoch: int = setting(100, "passes over the images that hold a usable instance", min=1)
    max_iters: int = setting(0, "stop after this many iterations in all, 0: after `epoch` passes", min=0)
    batch_size: int = setting(1, "image pairs per iteration", min=1)
    learning_rate: float = setting(2e-4, "Adam step size, all networks", above=0)
    beta1: float = setting(0.5, "Adam's first decay rate (the second is 0.999)", min=0, below=1)

    # ---- speed (same arithmetic up to rounding) --------------------------------------------------
    precision: str = setting(
        "fp32",
        "numbers of the convolutions: fp32 or bf16",
        ("fp32", "bf16"),
    )
    tf32: bool = setting(False, "let GPUs round float32 factors to 10 bits in convolutions and products")
    channels_last: bool = setting(True, "memory format of maps; on CPUs twice as fast as the other")
    cuda_graph: str = setting(
        "auto",
        "auto: on a GPU capture the step once and replay it (one process); never",
        ("auto", "never"),
    )

    # ---- departures from the published program, all off by default ------------------------------
    box_ramp: float = setting(
        0.0, "width of the placed box's soft edge, output pixels; 0: published edge", min=0
    )
    theta_jitter: float = setting(
        0.0,
        "random shift of each edge of x+'s box, at most so many pixels of the big map; hides its pixel grid",
        min=0,
    )
    what_kl_weight: float = setting(
        1.0,
        "weight of what_kl in the supervised what encoder's loss; with mask_loss bce, likelihood weighs it by"
        " z_dim_appr / (compact_sizex * compact_sizey)",
        min=0,
    )
    mask_loss: str = setting(
        "l1", "what_vae_recon: l1 (published) or bce, the likelihood of the mask", ("l1", "bce")
    )
    decay_from: float = setting(
        1.0, "fraction of the run after which the learning rate falls to 0, 1: never", min=0, max=1
    )
    average_decay: float = setting(
        0.0, "decay per iteration of the averaged weights used to sample; 0: none", min=0, below=1
    )

    # ---- run ------------------------------------------------------------------------------------
    run_dir: str = setting("runs/where_what", "folder for options, log, samples, checkpoints")
    resume: str = setting("", "auto (last checkpoint of run_dir, if any) or the path of a checkpoint")
    init: str = setting(
        "", "checkpoint whose weights training begins with (run folder, state-*.pt or builtin:street)"
    )
    random_seed: int = setting(1004, "seed of everything random", min=0, max=2**64 - 1)
    device: str = setting("auto", "auto (cuda if there is one), cpu, cuda or cuda:N")
    log_every: int = setting(100, "iterations between log lines", min=1)
    sample_every: int = setting(100, "iterations between sample grids, 0: none", min=0)
    save_every: int = setting(1000, "iterations between checkpoints, 0: only at the end of each epoch", min=0)
    keep_checkpoints: int = setting(3, "checkpoints kept, the oldest go first", min=1)

    @property
    def targets(self) -> tuple[TargetClass, ...]:
        """The classes to insert, in the order in which the model has them."""
        return classes_named(self.target_class)


PRESETS = {
    "paper": {},
    "demo": {
        "image_sizex_small": 128,
        "image_sizey_small": 64,
        "image_sizex_big": 128,
        "image_sizey_big": 64,
        "compact_sizex": 64,
        "compact_sizey": 64,
        "gf_dim": 16,
        "df_dim": 16,
        "embed_dim_small": 64,
        "embed_dim_big": 128,
        "where": "distribution",
        "batch_size": 8,
        "max_iters": 800,
        "learning_rate": 1e-3,
        "decay_from": 0.5,
        "average_decay": 0.99,
        "box_ramp": 1.0,
        "theta_jitter": 0.5,
        "what_kl_weight": 0.012,
        "mask_loss": "bce",
        "clear_weight": 4.0,
        "num_workers": 1,
        "save_every": 200,
    },
    "street": {
        "image_sizex_small": 256,
        "image_sizey_small": 128,
        "image_sizex_big": 512,
        "image_sizey_big": 256,
        "df_dim": 16,
        "where": "distribution",
        "batch_size": 8,
        "epoch": 60,
        "learning_rate": 5e-4,
        "decay_from": 0.5,
        "average_decay": 0.999,
        "box_ramp": 1.0,
        "theta_jitter": 0.5,
        "what_kl_weight": 0.003,
        "mask_loss": "bce",
        "clear_weight": 4.0,
        "num_workers": 4,
    },
    "places": {
        "target_class": "all",
        "image_sizex_small": 128,
        "image_sizey_small": 64,
        "image_sizex_big": 128,
        "image_sizey_big": 64,
        "compact_sizex": 64,
        "compact_sizey": 64,
        "where": "distribution",
        "what": "none",
        "batch_size": 8,
        "max_iters": 1600,
        "decay_from": 0.5,
        "average_decay": 0.99,
        "clear_weight": 4.0,
        "num_workers": 1,
        "save_every": 200,
    },
    "tiny": {
        "image_sizex_small": 64,
        "image_sizey_small": 32,
        "image_sizex_big": 128,
        "image_sizey_big": 64,
        "compact_sizex": 32,
        "compact_sizey": 32,
        "gf_dim": 4,
        "df_dim": 4,
        "embed_dim_small": 16,
        "embed_dim_big": 24,
        "max_iters": 4,
        "log_every": 1,
        "sample_every": 2,
        "save_every": 2,
        "num_workers": 0,
    },
}


def network_depth(width: int, height: int, what: str) -> int:
    """How often a k4s2p1 layer halves a map until its height is 4 (docs/model.md#other-sizes).

    Raises InputError, naming `what`, unless height is 4 * 2^n with n >= 1 and width is a multiple of 2^n.
    """
    depth = int(math.log2(height / 4)) if height >= 8 else 0
    if depth < 1 or 4 * 2**depth != height or width < 2**depth or width % 2**depth:
        raise InputError(
            f"{what} of {width}x{height} pixels can't be built: the height must be 8, 16, 32, 64, ... and the"
            " width a multiple of a quarter of it, e.g. 256x128"
        )
    return depth


def validate(options: Options) -> Options:
    """Return `options` unchanged, or raise InputError naming the first option that can't be used."""
    checked(options)
    network_depth(options.image_sizex_small, options.image_sizey_small, "small maps (image_size*_small)")
    network_depth(options.image_sizex_big, options.image_sizey_big, "big maps (image_size*_big)")
    network_depth(options.compact_sizex, options.compact_sizey, "compact masks (compact_size*)")
    if options.image_sizey_small < 32 or options.image_sizex_small < 32:
        raise InputError("image_size*_small must be at least 32x32 pixels: D where halves its map four times")
    if options.compact_sizex < 8:
        raise InputError("compact_sizex must be at least 8 pixels")
    if len(options.targets) > 1 and options.what != "none":
        raise InputError(
            f"target_class {options.target_class}: several classes share a density of places, but not a what"
            " module; give --where distribution --what none, or a single class"
        )
    if options.what == "none" and options.where != "distribution":
        raise InputError(
            "what none: the published where module learns from the shapes that are drawn; give --where"
            " distribution"
        )
    if options.where == "distribution" and options.z_dim_spatial != PLACE_NUMBERS:
        raise InputError(
            f"z_dim_spatial must be {PLACE_NUMBERS} with where 'distribution' (x, y, height, aspect), not"
            f" {options.z_dim_spatial}"
        )
    return options


# Options of earlier versions that nobody needed: what is left of them is what these values did.
REMOVED = {
    "joint_weight": 0.0,
    "overlap_weight": 0.0,
    "theta_space": "affine",
    "kl_weight": 1.0,
    "compile": False,
    "accumulate": 1,
    "erase_share": 0.5,
    "hidden_share": 0.3,
    "zoom_share": 0.5,
    "decoys": 1.0,
}


def from_dict(values: dict, source: str) -> Options:
    """Options from a dict of saved values (options.yaml, a checkpoint); missing ones take their defaults.

    Raises InputError, naming `source`, for an unknown name, a value of the wrong kind, and an option of
    earlier versions (REMOVED) that holds anything but its default.
    """
    for name in values.keys() & REMOVED.keys():
        if values[name] != REMOVED[name]:
            raise InputError(
                f"{source}: {name} {values[name]} is no longer there, only what {name} {REMOVED[name]} did"
            )
    kept = {name: value for name, value in values.items() if name not in REMOVED}
    if kept.get("precision") == "fp16":
        raise InputError(f"{source}: precision fp16 is no longer there; take bf16 or fp32")
    return changed(Options(), kept, source)


def write_yaml(options: Options) -> str:
    """The text of options.yaml; `--config` reads it back to equal options."""
    return yaml.safe_dump(dataclasses.asdict(options), sort_keys=False)


def parser() -> Parser:
    parser = Parser("main.py", "Train the joint where/what model.")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="named set of options (default paper)")
    parser.add_argument("--config", metavar="FILE.yaml", help="options of a saved run; flags win over it")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="open the data, print options, parameter table and number of usable instances, then stop",
    )
    add_flags(parser, Options)
    return parser


def parse(arguments: list[str] | None = None) -> tuple[Options, bool]:
    """Options of a command line (None: sys.argv), and whether it asks for a dry run.

    Raises InputError for anything that can't be used.
    """
    flags = vars(parser().parse_args(arguments))
    preset, config, dry_run = flags.pop("preset"), flags.pop("config"), flags.pop("dry_run")
    values = dict(PRESETS[preset or "paper"])
    if config:
        values.update(read_yaml(config, "'name: value' lines, as a saved options.yaml does"))
    values.update(flags)
    return validate(from_dict(values, f"--config {config}" if config else "options")), dry_run


def as_markdown() -> str:
    """The page docs/options.md: all options as a table, and the presets."""
    presets = ("demo", "street", "places")
    rows = [
        f"| option | default (`paper`) | {' | '.join(f'`{preset}`' for preset in presets)} | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for item in dataclasses.fields(Options):
        default = item.default if item.default != "" else "(none)"
        others = " | ".join(str(PRESETS[preset].get(item.name, "")) for preset in presets)
        rows.append(f"| `{item.name}` | {default} | {others} | {item.metadata['help']} |")
    table = "\n".join(rows)
    return f"""# Options of a training run

Made by `python options.py > docs/options.md`; `python main.py --help` prints the list too. Sizes are
width (x) and height (y) in pixels. Precedence: the defaults, then `--preset`, then `--config FILE.yaml`, then
flags.

{table}

Presets: `paper` (the defaults), `demo` (small maps and networks, for a CPU: what the quickstart trains),
`street` (places and shapes on finer maps, for a GPU), `places` (where all classes stand, no shapes, for a
CPU), `tiny` (seconds, for tests). Which to take for Cityscapes:
[cityscapes.md](cityscapes.md#beside-demo-and-street). How `demo` and `street` depart from the published
settings stands in [differences.md](differences.md#the-wherewhat-model).
"""


if __name__ == "__main__":
    print(as_markdown(), end="")
