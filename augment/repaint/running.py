"""A run as a whole: its settings, what is still to do in each stage, and doing it.

OUT/synth.json holds the options, OUT/manifest.jsonl what was done. Stages meet on these two and the files
below OUT/work. An item is a frame; its parts are instances in the stage select, then samples.
"""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from augment.engine.records import Item, are_there, fingerprint, line_of
from augment.engine.tree import Tree, is_current, sources_changed, warn_of_changes
from augment.options import SynthOptions, from_saved
from augment.paint.backends import prepare_backend
from augment.repaint.manifest import STAGES, STATUSES, SYNTH, sample_key
from augment.repaint.select import Source, balanced, in_scope, source_frames
from augment.repaint.stages import Job, Patch
from augment.repaint.workers import pool_of, survey, work
from data.frame import INSTANCES, POLYGONS
from streets.scenes import SETTINGS_FILE, write_streets
from support.errors import InputError
from support.files import digest, in_turn, writing_to
from support.processes import Pool
from support.progress import progress_bar

STREETS = "work/streets"
_TRUTH = {"select": (INSTANCES,), "integrate": (INSTANCES, POLYGONS)}


# ---- settings -----------------------------------------------------------------------------------


def saved_options(out: Path) -> SynthOptions:
    """The options of the run in OUT. InputError if there is none, or if it is damaged."""
    summary = SYNTH.read_summary(out)
    if summary is None:
        raise InputError(f"--out {out}: holds no {SYNTH.summary}; begin with python -m scripts.synth.select")
    return from_saved(summary["settings"].get("options"), str(Path(out) / SYNTH.summary))


def decisive_settings(options: SynthOptions) -> dict:
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
        root, there = Path(options.db_root).resolve(), out.resolve()
        if there == root or root in there.parents or there in root.parents:
            raise InputError(f"--out {out}: inside the input {root} or around it; choose another")
        source_frames(Path(options.db_root), options.split)  # rather now than when OUT is begun


def make_scenes(out: Path, options: SynthOptions, workers: int) -> None:
    """Write the built-in street scenes below OUT, unless they are there."""
    root = out / STREETS
    write_streets(
        root,
        options.scenes,
        max(1, options.scenes // 5),
        options.size,
        options.seed,
        workers,
        overwrite=not (root / SETTINGS_FILE).exists(),
        progress=lambda scenes, total: progress_bar(scenes, "street scenes", total, "scene"),
    )


def input_of(out: Path, options: SynthOptions) -> Path:
    """The root of the input: a data set, or the built-in scenes of this run."""
    return Path(options.db_root) if options.db_root else Path(out) / STREETS


# ---- a run --------------------------------------------------------------------------------------


@dataclass
class Run:
    """An opened OUT and the frames to work on."""

    tree: Tree
    root: Path  # of the input
    options: SynthOptions
    sources: list[Source]  # all frames of the split
    scope: list[Source]  # those that --only and --limit leave
    verify: bool = False

    @classmethod
    def open(cls, tree: Tree, flags: argparse.Namespace, options: SynthOptions) -> "Run":
        """A run of an opened tree. Raises InputError if the input or the scope can't be used."""
        root = input_of(tree.out, options)
        sources = source_frames(root, options.split)
        summary = SYNTH.read_summary(tree.out) or {}
        names = fingerprint([str(one.name) for one in sources])
        if summary.get("frames", names) != names:
            raise InputError(
                f"{root}: split {options.split} has other frames than when {tree.out} was begun; put them"
                " back, choose another --out, or begin anew with --overwrite"
            )
        run = cls(tree, root, options, sources, in_scope(sources, flags.only, flags.limit), flags.verify)
        if "frames" not in summary and not flags.dry_run:
            with writing_to(tree.out):
                tree.write_summary({"frames": names, "counts": {}})
        return run

    @property
    def out(self) -> Path:
        return self.tree.out

    def pool(self, workers: int) -> Pool:
        """Processes for this run."""
        return pool_of(workers, self.out, self.root, self.worker_options)

    @property
    def worker_options(self) -> SynthOptions:
        """The options as workers use them: the bank of `swap` lies in OUT unless it is told otherwise."""
        if self.options.backend != "swap":
            return self.options
        settings = {"bank": str(self.out / "work" / "bank.npz")} | self.options.backend_settings
        return dataclasses.replace(self.options, backend_settings=settings)

    # ---- what was done --------------------------------------------------------------------------

    def lines(self, stage: str, source: Source) -> dict[str, dict]:
        """The lines of a frame's parts by key."""
        return {line["key"]: line for line in self.tree.records.get(stage, source.key)[:-1]}

    def patches(self, source: Source) -> Iterator[tuple[str, Patch]]:
        """Key and patch of each sample of a frame, in order; `generated` may be None."""
        generated = self.lines("generate", source)
        for rank, selected in enumerate(self.lines("select", source).values()):
            for sample in range(1, self.options.samples + 1):
                key = sample_key(source.name, selected["instance_id"], sample)
                yield key, Patch(selected, generated.get(key), rank * self.options.samples + sample - 1)

    def told(self, stage: str, sources: list[Source]) -> Iterator[dict]:
        """The lines of frames that tell what became of them: their parts', or their own if they have none."""
        for source in sources:
            lines = self.tree.records.get(stage, source.key)
            yield from lines[:-1] or [line for line in lines if line["status"] != "ok"]

    def counts(self, stage: str, sources: list[Source]) -> dict[str, int]:
        """Items of frames by status."""
        found = Counter(line["status"] for line in self.told(stage, sources))
        return {status: found[status] for status in STATUSES}

    def first(self, stage: str, status: str, most: int) -> list[dict]:
        """The first lines, at most so many, of items in scope with a status."""
        return list(islice((line for line in self.told(stage, self.scope) if line["status"] == status), most))

    # ---- what there is to do --------------------------------------------------------------------

    def item(self, stage: str, source: Source) -> Item:
        """A frame as a stage sees it."""
        frame = source.frame
        truth = [frame.annotation_path(ending) for ending in _TRUTH.get(stage, ())]
        paths = [frame.image_path, *truth, frame.void_path] if truth else []
        return Item(source.key, {path.name: path for path in paths if path})

    def to_do(self, stage: str, source: Source, *, again: bool = True) -> list:
        """The parts of a frame that a stage has still to work on.

        select: [None] for a frame; generate: select lines; integrate: Patch. again: also what was skipped or
        failed, and what was made but is gone.
        """
        block = self.tree.records.get(stage, source.key)
        stale = not is_current(block, self.item(stage, source))
        if stage == "select":
            return [None] if stale or any(self._is_open(line, {}, again) for line in block) else []
        lines, pending = {line["key"]: line for line in block}, {}
        for key, patch in self.patches(source):
            before, line = patch.selected if stage == "generate" else patch.generated, lines.get(key)
            if before is None or before["status"] != "ok":  # then it is skipped
                is_open = line is None or line["status"] != "skipped"
            else:
                is_open = stale or line is None or self._is_open(line, before["outputs"], again)
            if is_open:
                part = patch.selected if stage == "generate" else patch
                pending[part["key"] if stage == "generate" else key] = part
        return list(pending.values())

    def _is_open(self, line: dict, made_from: dict[str, str], again: bool) -> bool:
        """Whether an item that has a line must be worked on; made_from: digests of the stage before."""
        if line["status"] != "ok":
            return again
        inputs, outputs = line.get("inputs", {}), line.get("outputs", {})
        if not made_from.items() <= inputs.items():
            return True
        if not again:
            return False
        if self.verify:
            made = {path: sha for path, sha in inputs.items() if path.startswith("work/")}
            read = {path: sha for path, sha in inputs.items() if path not in made}
            if not are_there(self.out, made, compare=True) or not are_there(self.root, read, compare=True):
                return True
        return not are_there(self.out, outputs, compare=self.verify)

    # ---- doing it -------------------------------------------------------------------------------

    def stage(self, name: str, pool: Pool) -> None:
        """Do what a stage has still to do in this process's shard. InputError if it has no input."""
        before = {"generate": "select", "integrate": "generate"}.get(name)
        records, mine = self.tree.records, self.tree.shard.of(self.scope)
        if before and not records.places[before] and self.tree.shard.count == 1:
            raise InputError(f"{self.out}: nothing to {name}; first python -m scripts.synth.{before}")
        pending = [source for source in mine if self.to_do(name, source)]
        changed = [
            changed
            for source in pending
            if (block := records.get(name, source.key))
            for changed in sources_changed(block, self.item(name, source))
            if name == "select" or changed.endswith(".json")  # the others are named by select
        ]
        warn_of_changes(changed)
        if pending and name == "generate":
            options = self.worker_options
            spread = partial(pool.with_bar, f"prepare {options.backend}")
            with in_turn(self.out):
                prepare_backend(options.backend, options.backend_settings, self.root, options.split, spread)
        with writing_to(self.out):
            results = pool.map(work, self.jobs(name, pending, pool))
            bar = progress_bar(zip(pending, results, strict=True), name, len(pending))
            for source, lines in bar:
                self.tree.append(self.block(name, source, lines))
        if name == "select" and self.tree.shard.count == 1:
            counts = self.counts(name, mine)
            if not counts["ok"] and not counts["failed"]:
                raise InputError(
                    f"{self.root}: no instance in {len(mine)} frames of {self.options.split} passes the"
                    " filters; lower min_area or min_side, or give other classes"
                )

    def jobs(self, name: str, pending: list[Source], pool: Pool) -> Iterator[Job]:
        """The jobs of a stage, made one after another."""
        chosen = {}
        if name == "select" and pending and self.options.policy == "class_balanced":
            found = pool.map(survey, progress_bar(self.sources, "survey"))
            keys = [source.key for source in self.sources]
            chosen = balanced(dict(zip(keys, found, strict=True)), self.options)
        for source in pending:
            if name == "select":
                parts = tuple(chosen[source.key]) if chosen else None
            else:
                parts = tuple(part for part in self.to_do(name, source) if name == "generate" or part.is_made)
            yield Job(name, source, self.item(name, source), parts)

    def block(self, stage: str, source: Source, new: list[dict]) -> list[dict]:
        """All lines of a frame after a job: of what it worked on, of the others as they were, its own."""
        *made, own = new
        if stage == "select":
            return new
        lines = self.lines(stage, source) | {line["key"]: line for line in made}
        parts = []
        for key, patch in self.patches(source):
            if stage == "integrate" and not patch.is_made:
                before = patch.generated or {"status": "not done", "reason": "stage generate has not run"}
                reason = f"generate {before['status']}: {before['reason']}"
                parts.append(line_of(stage, key, "skipped", reason))
            elif key in lines:
                parts.append(lines[key])
        if any(line["status"] == "failed" for line in parts):
            own = own | {"status": "failed", "reason": "some of its samples failed"}
        return [*parts, own]

    def merging(self, stages: tuple[str, ...]) -> AbstractContextManager[bool]:
        """See `Tree.merging`: whether this process is the one that ends some stages."""
        scope = {source.key: source for source in self.scope}
        return self.tree.merging(
            list(scope),
            lambda key: not any(self.to_do(stage, scope[key], again=False) for stage in stages),
        )

    def save(self) -> None:
        """Write OUT/synth.json."""
        names = fingerprint([str(one.name) for one in self.sources])
        counts = {stage: self.counts(stage, self.sources) for stage in STAGES}
        self.tree.write_summary({"frames": names, "counts": counts})
