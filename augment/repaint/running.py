"""A run as a whole: its settings, its input, what is still to do, and doing it.

OUT/synth.json holds the options, OUT/manifest.jsonl what was done. An item of the engine is a frame; its
parts are instances in the stage select, then samples.
"""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from augment.options import SynthOptions, from_saved
from augment.paint.backends import prepare_backend
from augment.repaint.manifest import STATUSES, SYNTH
from augment.repaint.repainter import Task, survey
from augment.repaint.select import Source, balanced, in_scope, source_frames
from data.frame import INSTANCES, POLYGONS
from engine.records import WorkItem, are_there, fingerprint, outputs_of
from engine.tree import Tree
from streets.scenes import write_streets
from support.errors import InputError
from support.files import check_apart, digest, in_turn, writing_to
from support.processes import Pool, share_of_cores
from support.progress import progress_bar

STREETS = "work/streets"


# ---- settings -----------------------------------------------------------------------------------


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that do not decide what is written."""
    add = parser.add_argument_group("run").add_argument
    add("--out", help="folder of the new tree; made if absent")
    add(
        "--num_workers",
        type=int,
        default=share_of_cores(),
        help="processes; no influence on the files (default: one for each core)",
    )
    add("--limit", type=int, metavar="N", help="only the first N frames (default all)")
    add("--only", metavar="CITY[/SEQ[/FRAME]]", help="only these frames")


def out_of(flags: argparse.Namespace) -> Path:
    """--out. Raises InputError if it isn't given, and for numbers out of range."""
    if not flags.out:
        raise InputError("--out is required: the folder of the new tree")
    for name in ("num_workers", "generate_workers", "limit"):
        value = vars(flags).get(name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}")
    return Path(flags.out)


def saved_options(out: Path) -> SynthOptions:
    """The options of the run in OUT. InputError if there is none, or if it is damaged."""
    summary = SYNTH.read_summary(out)
    if summary is None:
        raise InputError(f"--out {out}: holds no {SYNTH.summary}; begin with python -m scripts.synth.run")
    return from_saved(summary["settings"].get("options"), str(Path(out) / SYNTH.summary))


def fingerprint_settings(options: SynthOptions) -> dict:
    """All that decides what a run writes, except the frames themselves, as synth.json shows it."""
    prompts = None
    if options.prompts:
        try:
            prompts = digest(Path(options.prompts).read_bytes())
        except OSError as error:
            raise InputError(f"--prompts {options.prompts}: can't be read ({error.strerror})") from None
    return json.loads(json.dumps({"options": dataclasses.asdict(options), "prompts": prompts}))


def check_out(out: Path, options: SynthOptions) -> None:
    """Raises InputError for an OUT that can't be the folder of a tree of this input, or an input of none."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another")
    if options.db_root:
        check_apart(out, Path(options.db_root), f"the input {options.db_root} or around it")
        source_frames(Path(options.db_root), options.split)  # rather now than when OUT is begun


def make_scenes(out: Path, options: SynthOptions, workers: int) -> None:
    """Write the built-in street scenes below OUT, unless they are there."""
    counts = options.scenes, max(1, options.scenes // 5)
    write_streets(out / STREETS, *counts, options.size, options.seed, workers, title="street scenes")


def input_of(out: Path, options: SynthOptions) -> Path:
    """The root of the input: a data set, or the built-in scenes of this run."""
    return Path(options.db_root) if options.db_root else Path(out) / STREETS


# ---- a run --------------------------------------------------------------------------------------


@dataclass
class SynthRun:
    """An opened OUT and the frames to work on."""

    tree: Tree
    root: Path  # of the input
    options: SynthOptions
    sources: list[Source]  # all frames of the split
    scope: list[Source]  # those that --only and --limit leave

    @classmethod
    def of(cls, tree: Tree, flags: argparse.Namespace, options: SynthOptions) -> "SynthRun":
        """A run of an opened tree. Raises InputError if the input or the scope can't be used."""
        root = input_of(tree.out, options)
        sources = source_frames(root, options.split)
        run = cls(tree, root, options, sources, in_scope(sources, flags.only, flags.limit))
        summary = SYNTH.read_summary(tree.out) or {}
        if summary.get("frames", run.frames) != run.frames:
            raise InputError(
                f"{root}: split {options.split} has other frames than when {tree.out} was begun; put them"
                " back, choose another --out, or begin anew with --overwrite"
            )
        return run

    @property
    def frames(self) -> str:
        """What tells whether the split has the same frames."""
        return fingerprint([one.frame.name for one in self.sources])

    @property
    def worker_options(self) -> SynthOptions:
        """The options as workers use them: the bank of `swap` lies in OUT unless it is told otherwise."""
        if self.options.backend != "swap":
            return self.options
        settings = {"bank": str(self.tree.out / "work" / "bank.npz")} | self.options.backend_settings
        return dataclasses.replace(self.options, backend_settings=settings)

    # ---- doing it -------------------------------------------------------------------------------

    def items(self) -> list[WorkItem]:
        """The frames in scope, as the engine sees them."""
        items = []
        for source in self.scope:
            frame = source.frame
            annotation = (frame.annotation_path(ending) for ending in (INSTANCES, POLYGONS))
            paths = [frame.image_path, *annotation, frame.void_path]
            items.append(WorkItem(frame.key, {path.name: path for path in paths if path}, task=Task(source)))
        return items

    def is_unchanged(self, lines: list[dict]) -> bool:
        """Whether all files that some lines tell of are as they were when they were read or written."""
        made = outputs_of(lines)
        read = {path: sha for line in lines for path, sha in line.get("inputs", {}).items()}
        read = {path: sha for path, sha in read.items() if path not in made}
        return are_there(self.tree.out, made, compare=True) and are_there(self.root, read, compare=True)

    def make(self, todo: list[WorkItem], painters: Pool, others: Pool) -> None:
        """Repaint frames in one pool, which is the tree's, and do in the other what comes before."""
        options, out = self.worker_options, self.tree.out
        if todo and options.policy == "class_balanced":
            found = others.map(partial(survey, options), progress_bar(self.sources, "survey"))
            chosen = balanced({x.frame.key: ids for x, ids in zip(self.sources, found, strict=True)}, options)
            tasks = (Task(item.task.source, tuple(chosen[item.key])) for item in todo)
            todo = [dataclasses.replace(item, task=task) for item, task in zip(todo, tasks, strict=True)]
        if todo:
            spread = partial(others.with_bar, f"prepare {options.backend}")
            # What is wrong is said by the first frame that has something to repaint, if there is one.
            with writing_to(out), in_turn(out), suppress(InputError):
                prepare_backend(options.backend, options.backend_settings, self.root, options.split, spread)
        self.tree.make(todo, painters, "repaint")

    # ---- what was done --------------------------------------------------------------------------

    def lines(self, source: Source, stage: str) -> list[dict]:
        """The lines of a frame in a stage: its parts', and last its own; none if it didn't get there."""
        return [line for line in self.tree.records.get(source.frame.key) if line["stage"] == stage]

    def lines_of(self, stage: str, sources: list[Source]) -> Iterator[dict]:
        """The lines of frames that tell what became of them: their parts', or their own if they have none."""
        for source in sources:
            lines = self.lines(source, stage)
            yield from lines[:-1] or [line for line in lines if line["status"] != "ok"]

    def counts(self, stage: str, sources: list[Source]) -> dict[str, int]:
        """Items of frames by status."""
        found = Counter(line["status"] for line in self.lines_of(stage, sources))
        return {status: found[status] for status in STATUSES}

    def first(self, stage: str, status: str, limit: int) -> list[dict]:
        """The first lines, at most so many, of items in scope with a status."""
        lines = (line for line in self.lines_of(stage, self.scope) if line["status"] == status)
        return list(islice(lines, limit))

    def write_summary(self, stages: tuple[str, ...] = ()) -> None:
        """Write OUT/synth.json, with what became of all frames in some stages."""
        counts = {stage: self.counts(stage, self.sources) for stage in stages}
        self.tree.write_summary({"frames": self.frames, "counts": counts})
