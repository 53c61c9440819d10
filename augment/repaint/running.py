"""A run as a whole: opening OUT, what is still to do in each stage, and doing it.

OUT/synth.json holds the options, OUT/manifest.jsonl what was done. Stages meet on these two and the files
below OUT/work.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from augment.options import SynthOptions, from_saved
from augment.paint.backends import prepare_backend
from augment.repaint.manifest import (
    CODE_VERSION,
    MANIFEST,
    SCHEMA,
    STATUSES,
    Manifest,
    fingerprint,
    instance_key,
    line_of,
    sample_key,
)
from augment.repaint.select import Source, balanced, in_scope, source_frames
from augment.repaint.stages import Job, Patch
from augment.repaint.workers import pool_of, survey, work
from streets.scenes import SETTINGS_FILE, write_streets
from support.errors import InputError
from support.files import digest, is_empty, write_atomic, writing_to
from support.processes import Pool

SUMMARY = "synth.json"
STREETS = "work/streets"
_OURS = (
    "leftImg8bit",
    "gtFine",
    "camera",
    "panorama",
    "annotations",
    "work",
    MANIFEST,
    SUMMARY,
    "score.json",
)


# ---- opening ------------------------------------------------------------------------------------


def read_summary(out: Path) -> dict | None:
    """What OUT/synth.json holds, None if there is none. InputError if it is damaged."""
    path = Path(out) / SUMMARY
    try:
        summary = json.loads(path.read_text())
        if summary.keys() >= {"config_hash", "run_id", "options"}:
            return summary
        raise ValueError("incomplete")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); remove {out}, or choose another --out") from None


def saved_options(out: Path) -> SynthOptions:
    """The options of the run in OUT. InputError if there is none, or if it is damaged."""
    summary = read_summary(out)
    if summary is None:
        raise InputError(f"--out {out}: holds no {SUMMARY}; begin with python -m scripts.synth.select")
    return from_saved(summary["options"], str(out / SUMMARY))


def config_hash(options: SynthOptions) -> str:
    """A hash of all that decides what a run writes, except the frames themselves."""
    content = dataclasses.asdict(options) | {"schema": SCHEMA, "code_version": CODE_VERSION}
    if options.prompts:
        try:
            content["prompts"] = digest(Path(options.prompts).read_bytes())
        except OSError as error:
            raise InputError(f"--prompts {options.prompts}: can't be read ({error.strerror})") from None
    return fingerprint(content)


def check_out(out: Path, options: SynthOptions) -> None:
    """Raises InputError for an OUT that can't be the folder of a tree of this input, or an input of none."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another")
    if options.db_root:
        root, there = Path(options.db_root).resolve(), out.resolve()
        if there == root or root in there.parents or there in root.parents:
            raise InputError(f"--out {out}: inside the input {root} or around it; choose another")
        source_frames(Path(options.db_root), options.split)  # rather now than when OUT is begun


def prepare_out(out: Path, options: SynthOptions, overwrite: bool, dry_run: bool) -> None:
    """Make OUT ready for these options, or find it ready. Raises InputError for a folder of anything else."""
    summary = read_summary(out)
    if overwrite and summary is not None and not dry_run:
        for name in _OURS:  # never more than a run writes
            path = out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    if summary is None or overwrite:
        if summary is None and out.is_dir() and not is_empty(out):
            raise InputError(f"--out {out}: is not empty and holds no earlier run; choose another")
        if not dry_run:
            write_summary(out, options, None, {})
    elif summary["config_hash"] != config_hash(options):
        raise InputError(
            f"--out {out}: holds a run with other settings (see its {SUMMARY}); choose another --out, or give"
            " --overwrite to replace it"
        )


def write_summary(out: Path, options: SynthOptions, run_id: str | None, counts: dict) -> None:
    """Write OUT/synth.json: options, their hash, the run's id, items by stage and status."""
    content = {
        "schema": SCHEMA,
        "code_version": CODE_VERSION,
        "config_hash": config_hash(options),
        "run_id": run_id,
        "options": dataclasses.asdict(options),
        "counts": counts,
    }
    write_atomic(out / SUMMARY, (json.dumps(content, indent=1) + "\n").encode())


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
        progress=lambda scenes, total: tqdm(scenes, "street scenes", total, unit="scene", disable=None),
    )


def input_of(out: Path, options: SynthOptions) -> Path:
    """The root of the input: a data set, or the built-in scenes of this run."""
    return Path(options.db_root) if options.db_root else Path(out) / STREETS


# ---- a run --------------------------------------------------------------------------------------


@dataclass
class Run:
    """An opened OUT and the frames to work on."""

    out: Path
    root: Path  # of the input
    options: SynthOptions
    sources: list[Source]  # all frames of the split
    scope: list[Source]  # those that --only and --limit leave
    manifest: Manifest
    verify: bool = False

    @classmethod
    def open(cls, flags: argparse.Namespace, options: SynthOptions) -> "Run":
        """Open OUT with these options. Raises InputError if OUT, the input or the scope can't be used."""
        out = Path(flags.out)
        root = input_of(out, options)
        sources = source_frames(root, options.split)
        names = [str(one.name) for one in sources]
        common = {"schema": SCHEMA, "run_id": fingerprint([config_hash(options), names])[:12]}
        common |= {"config_hash": config_hash(options), "code_version": CODE_VERSION}
        summary = read_summary(out) or {"run_id": None}
        if summary["run_id"] not in (None, common["run_id"]) and not getattr(flags, "overwrite", False):
            raise InputError(
                f"{root}: split {options.split} has other frames than when {out} was begun; put them back,"
                " choose another --out, or begin anew with --overwrite"
            )
        scope = in_scope(sources, flags.only, flags.limit)
        with writing_to(out):
            run = cls(out, root, options, sources, scope, Manifest(out, common, flags.dry_run), flags.verify)
            if not flags.dry_run:
                for left_over in out.rglob(".*.tmp"):
                    left_over.unlink()
                run.save()
        return run

    def save(self) -> None:
        """Write OUT/synth.json."""
        counts = {stage: self.counts(stage, self.sources) for stage in ("select", "generate", "integrate")}
        write_summary(self.out, self.options, self.manifest.common["run_id"], counts)

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

    def done(self, stage: str, key: str) -> dict | None:
        """The last line of an item that need not be worked on again, else None."""
        line = self.manifest.get(stage, key)
        return line if self.manifest.is_done(line, self.root if self.verify else None) else None

    # ---- what there is to do --------------------------------------------------------------------

    def chosen(self, source: Source) -> list[dict]:
        """The select lines of a frame's instances, by id; none if it was not selected from."""
        frame = self.manifest.get("select", source.key)
        if frame is None or frame["status"] != "ok":
            return []
        return [
            self.manifest.get("select", instance_key(source.name, instance_id))
            for instance_id in frame["chosen"]
        ]

    def patches(self, source: Source) -> Iterator[tuple[str, Patch]]:
        """Key and patch of each sample of a frame, in order; `generated` may be None."""
        for rank, selected in enumerate(self.chosen(source)):
            for sample in range(1, self.options.samples + 1):
                key = sample_key(source.name, selected["instance_id"], sample)
                number = rank * self.options.samples + sample - 1
                yield key, Patch(selected, self.manifest.get("generate", key), number)

    def to_do(self, stage: str, source: Source) -> list:
        """The items of a frame that a stage has still to work on.

        select: [None] for a frame; generate: select lines; integrate: Patch of what was generated.
        """
        if stage == "select":
            finished = self.done("select", source.key) and all(
                self.done("select", line["key"]) for line in self.chosen(source)
            )
            return [] if finished else [None]
        if stage == "generate":
            pending = {}
            for key, patch in self.patches(source):
                line = self.done("generate", key)
                if line is None or line["inputs"] != patch.selected["outputs"]:
                    pending[patch.selected["key"]] = patch.selected
            return list(pending.values())
        pending = []
        for key, patch in self.patches(source):
            if patch.generated is None or patch.generated["status"] != "ok":
                continue
            line = self.done("integrate", key)
            if line is None or not patch.generated["outputs"].items() <= line["inputs"].items():
                pending.append(patch)
        return pending

    # ---- doing it -------------------------------------------------------------------------------

    def stage(self, name: str, pool: Pool) -> dict[str, int]:
        """Do what a stage has still to do; the items in scope by status. InputError if it has no input."""
        before = {"generate": "select", "integrate": "generate"}.get(name)
        if before and not any(self.counts(before, self.sources).values()):
            raise InputError(f"{self.out}: nothing to {name}; first python -m scripts.synth.{before}")
        pending = [source for source in self.scope if self.to_do(name, source)]
        if pending and name == "generate":
            options = self.worker_options
            spread = partial(pool.with_bar, f"prepare {options.backend}")
            prepare_backend(options.backend, options.backend_settings, self.root, options.split, spread)
        with writing_to(self.out):
            bar = tqdm(desc=name, total=len(pending), unit="frame", disable=None)
            for lines in pool.map(work, self.jobs(name, pending, pool)):
                for line in lines:
                    self.manifest.append(line)
                bar.update()
            bar.close()
            if name == "integrate":
                self.skip_missing()
            self.manifest.tidy()
            self.save()
        counts = self.counts(name, self.scope)
        if name == "select" and not counts["ok"] and not counts["failed"]:
            raise InputError(
                f"{self.root}: no instance in {len(self.scope)} frames of {self.options.split} passes the"
                " filters; lower min_area or min_side, or give other classes"
            )
        return counts

    def jobs(self, name: str, pending: list[Source], pool: Pool) -> Iterator[Job]:
        """The jobs of a stage, made one after another."""
        if name == "select":
            chosen = {}
            if pending and self.options.policy == "class_balanced":
                found = pool.map(survey, tqdm(self.sources, "survey", unit="frame", disable=None))
                keys = [source.key for source in self.sources]
                chosen = balanced(dict(zip(keys, found, strict=True)), self.options)
            for source in pending:
                yield Job(name, source, tuple(chosen[source.key]) if chosen else None)
        else:
            for source in pending:
                yield Job(name, source, tuple(self.to_do(name, source)))

    def skip_missing(self) -> None:
        """A line for each sample that can't be integrated because it was not generated."""
        for source in self.scope:
            for key, patch in self.patches(source):
                if patch.generated is None or patch.generated["status"] != "ok":
                    made = patch.generated or {"status": "not done", "reason": "stage generate has not run"}
                    reason = f"generate {made['status']}: {made['reason']}"
                    self.manifest.append(line_of("integrate", key, "skipped", reason))

    def items(self, stage: str, sources: list[Source]) -> Iterator[tuple[str, str]]:
        """Key and status of frames' items: instances in select, then samples; a frame that has none."""
        scope = {source.key for source in sources}
        for (where, key), (_, status) in sorted(self.manifest.places.items()):
            parts = key.split("/")
            whole_frame = len(parts) == 3 and status == "ok"
            if where == stage and "/".join(parts[:3]) in scope and not whole_frame:
                yield key, status

    def counts(self, stage: str, sources: list[Source]) -> dict[str, int]:
        """Items of frames by status."""
        found = dict.fromkeys(STATUSES, 0)
        for _, status in self.items(stage, sources):
            found[status] += 1
        return found

    def lines(self, stage: str, status: str, most: int) -> list[dict]:
        """The first lines, at most so many, of items in scope with a status."""
        keys = (key for key, found in self.items(stage, self.scope) if found == status)
        return [self.manifest.get(stage, key) for key in islice(keys, most)]
