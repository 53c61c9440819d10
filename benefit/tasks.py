"""The work of a measurement, cut into tasks: scenes, models of places, data, arms; what each of them does."""

import contextlib
import io
import json
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

from augment.placement.options import range_of
from benefit.arms import (
    ARMS_VERSION,
    MODEL_OF,
    OF_PERSONS,
    RECIPES,
    RecipeSource,
    arm_of,
    folder_of,
    models_of,
    train_placement,
    trees_of,
)
from benefit.live import LiveFrames
from benefit.options import FREE, FROM_SCENES, BenefitOptions
from benefit.scenes import SPLIT, START_SEED
from benefit.sharing import BenefitTask
from distributed import Ranks, choose_device
from segment.options import SegmentOptions, validate
from segment.samples import GroundTruth
from segment.training import learn, measure, read_ground_truths, trained
from streets.scenes import write_streets
from support.errors import InputError
from support.files import in_turn, is_empty, write_atomic

SETTINGS = "settings.json"
HELD_OUT, FINAL = "held_out", "final"  # the two sets of scenes to be measured on
START = "start"  # the segmenter that all arms begin with
# What the options say of every training of a segmenter, by the names that they have there too.
SEGMENTER = ("size", "window", "arch", "batch_size", "optimiser", "learning_rate", "precision")
SEGMENTER += ("least_area", "official")


@dataclass(frozen=True)
class Case:
    """n scenes of a seed."""

    n: int
    seed: int

    @property
    def name(self) -> str:
        return f"n{self.n:03d}_seed{self.seed}"

    def arm(self, arm: str) -> str:
        return f"{self.name}/arms/{folder_of(arm)}"

    def data(self, made: str) -> str:
        return f"{self.name}/data/{folder_of(made)}"

    def final(self, arm: str) -> str:
        return f"{self.name}/final/{folder_of(arm)}"

    def model(self, model: str) -> str:
        return f"{self.name}/{model}"


def cases_of(options: BenefitOptions) -> list[Case]:
    """Seed by seed, so that a measurement that is cut short has whole seeds."""
    return [Case(n, seed) for seed in range(options.seeds) for n in options.n]


# ---- the list -----------------------------------------------------------------------------------


def tasks_of(options: BenefitOptions) -> list[BenefitTask]:
    """All tasks of a measurement, in the order in which they are to be taken."""
    out = Path(options.out).absolute()
    first, models, data, arms, last = [], [], [], [], []
    drawn = options.scenes
    first.append(BenefitTask(HELD_OUT, (), partial(drawn.held_out, count=options.held_out)))
    if options.final:
        last.append(BenefitTask(FINAL, (), partial(drawn.final, count=options.held_out)))
    start = (START,) if options.trains_start else ()
    if start:
        models.append(BenefitTask(START, (), partial(train_start, options=options)))
    wanted = {name: arm_of(name) for name in options.arms}
    # Arms that differ in their share alone have their data in common.
    recipes = {arm.data(recipe): (recipe, arm.flags) for arm in wanted.values() for recipe in arm.recipes}
    models_wanted = dict.fromkeys(model for arm in wanted.values() for model in models_of(arm))
    for case in cases_of(options):
        scenes = f"{case.name}/scenes"
        source = RecipeSource(
            out / scenes / "tree",
            {model: model_checkpoint(options, case, model) for model in models_wanted},
            case.seed,
            options.copies,
            options.per_image,
            options.device,
        )
        first.append(BenefitTask(scenes, (), partial(drawn.training, n=case.n, seed=case.seed)))
        trained = {model: case.model(model) for model in models_wanted if not options.known_places[model]}
        for name in trained.values():
            work = partial(
                train_placement,
                tree=source.tree,
                preset=options.place_preset,
                iterations=options.place_iterations,
                seed=case.seed,
                device=options.device,
            )
            models.append(BenefitTask(name, (scenes,), work))
        for made, (recipe, flags) in recipes.items():
            needs = [trained[model] for model in (MODEL_OF.get(recipe),) if model in trained]
            work = partial(RECIPES[recipe], source=replace(source, flags=flags))
            data.append(BenefitTask(case.data(made), (scenes, *needs), work))
        for name, arm in wanted.items():
            needs = [case.data(arm.data(recipe)) for recipe in arm.recipes]
            needs += [trained[model] for model in models_of(arm) if model in trained]
            work = partial(train_arm, options=options, case=case, name=name)
            arms.append(BenefitTask(case.arm(name), (HELD_OUT, scenes, *start, *needs), work))
            if options.final:
                work = partial(measure_finally, options=options, case=case, name=name)
                last.append(BenefitTask(case.final(name), (FINAL, case.arm(name)), work))
    return [*first, *models, *data, *arms, *last]


def model_checkpoint(options: BenefitOptions, case: Case, model: str) -> str | Path:
    """A model of places: one that is known from elsewhere, or that of the case."""
    return options.known_places[model] or Path(options.out).absolute() / case.model(model) / "run"


def train_start(folder: Path, options: BenefitOptions) -> dict:
    """Train the segmenter that all arms begin with, on scenes without persons and riders."""
    tree, steps = folder / "tree", options.start_iterations
    write_streets(tree, options.start_scenes, 0, options.scene_size, START_SEED, with_people=False)
    settings = training_of(options, folder / "run", [tree], (1.0,), steps)
    with contextlib.redirect_stdout(io.StringIO()):
        learn(settings, [], choose_device(options.device), Ranks())
    return {"scenes": options.start_scenes, "iterations": options.start_iterations}


def train_arm(folder: Path, options: BenefitOptions, case: Case, name: str) -> dict:
    """Train the segmenter of an arm and measure it on the held-out scenes."""
    settings = segmenter_of(options, case, name, HELD_OUT)
    settings = replace(settings, weights=first_weights(options))
    ground_truths = ground_truths_of(settings.val, settings.size)
    device = choose_device(options.device)
    with contextlib.redirect_stdout(io.StringIO()):  # log.txt in its folder says the same
        live = live_frames(folder, options, case, arm_of(name).live) if arm_of(name).live else None
        model = learn(settings, list(ground_truths), device, Ranks(), live)
    return measure(model, settings, list(ground_truths), device)


def first_weights(options: BenefitOptions) -> str:
    """What the segmenter of an arm begins with, as `--weights` of scripts.segment."""
    if options.start != FROM_SCENES:
        return options.start
    return str(Path(options.out).absolute() / START / "run") if options.trains_start else "none"


def live_frames(folder: Path, options: BenefitOptions, case: Case, render: str) -> LiveFrames:
    """The scenes of a case with new persons each time they are drawn, painted so."""
    return LiveFrames(
        Path(options.out).absolute() / case.name / "scenes/tree",
        SPLIT,
        model_checkpoint(options, case, OF_PERSONS),
        render,
        folder / "bank.npz",
        range_of(options.per_image),
        case.seed,
        options.size,
    )


def measure_finally(folder: Path, options: BenefitOptions, case: Case, name: str) -> dict:
    """Measure the segmenter of an arm on the second set of held-out scenes."""
    settings = segmenter_of(options, case, name, FINAL)
    device = choose_device(options.device)
    ground_truths = ground_truths_of(settings.val, settings.size)
    return measure(trained(settings, device), settings, list(ground_truths), device)


def segmenter_of(options: BenefitOptions, case: Case, name: str, measured_on: str) -> SegmentOptions:
    """What scripts.segment would be told for an arm: real scenes and made ones, `share` of these."""
    out, arm = Path(options.out).absolute(), arm_of(name)
    real = out / case.name / "scenes/tree"
    made = [trees_of(out / case.data(arm.data(recipe))) for recipe in arm.recipes]
    made = [[real]] if arm.live else made
    shares = [(arm.share or options.share) / len(made) / len(trees) for trees in made for _ in trees]
    trees = [tree for part in [[real], *made] for tree in part]
    run, share, steps = out / case.arm(name) / "run", (1 - sum(shares), *shares), options.iterations
    settings = training_of(options, run, trees, share, steps, case.seed)
    return replace(settings, val=str(out / measured_on / "tree"), picture_every=steps)


def training_of(
    options: BenefitOptions,
    run: Path,
    trees: list[Path],
    share: tuple[float, ...],
    iterations: int,
    seed: int = 0,
) -> SegmentOptions:
    """What all trainings of a segmenter have in common."""
    settings = SegmentOptions(
        **{name: getattr(options, name) for name in SEGMENTER},
        data=[str(tree) for tree in trees],
        share=share,
        split=SPLIT,
        val="",
        out=str(run),
        iterations=iterations,
        resume="auto",
        random_seed=seed,
        num_workers=0,
        save_every=200,
        picture_every=0,
        keep_checkpoints=1,
    )
    return validate(settings)


@cache
def ground_truths_of(tree: str, size: tuple[int, int]) -> tuple[GroundTruth, ...]:
    """The frames to be measured on, read once in a process."""
    return tuple(read_ground_truths(SegmentOptions(data=[], val=tree, out="", size=size, num_workers=0)))


# ---- its folder ---------------------------------------------------------------------------------


def open_folder(options: BenefitOptions) -> Path:
    """Make OUT ready. Raises InputError if it holds a measurement with other settings or other arms."""
    out = Path(options.out)
    ours, defaults = (
        json.loads(json.dumps({name: value for name, value in asdict(one).items() if name not in FREE}))
        for one in (options, BenefitOptions())
    )
    ours["arms_version"] = ARMS_VERSION
    path = out / SETTINGS
    try:
        empty = not out.is_dir() or is_empty(out)  # looked at first: a measurement begins with its settings
        if not empty and not path.exists():
            raise InputError(f"--out {out}: is not empty and holds no measurement; choose another")
        out.mkdir(parents=True, exist_ok=True)
        with in_turn(out):
            theirs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            if theirs is None:
                write_atomic(path, (json.dumps(ours, indent=1) + "\n").encode())
    except (OSError, ValueError) as error:
        raise InputError(
            f"--out {out}: can't be used ({getattr(error, 'strerror', None) or error}); choose another"
        ) from None
    for name, value in ours.items():
        if theirs is not None and theirs.get(name, defaults.get(name)) != value:
            raise InputError(
                f"--out {out}: holds a measurement with {name} {theirs.get(name)}, this one has {value}:"
                " choose another --out"
            )
    return out
