"""python -m scripts.synth.score --out datasets/synth

Scores the synthetic frames of a run: what lies outside the masks is preserved, how much has changed inside,
the published whole-patch metrics under their own names, and, where their weights are given, FID, KID, LPIPS
and CLIP. Writes OUT/score.json and prints a table.
"""

import argparse
import json
from collections.abc import Iterator

from augment.repaint import score_networks
from augment.repaint.manifest import SYNTH
from augment.repaint.running import SynthRun, add_run_flags, fingerprint_settings, out_of, saved_options
from augment.repaint.score import NUMBERS, Mean, ScoredSample, measure
from augment.repaint.score_networks import Networks, Weights
from engine.shards import Shard
from engine.tree import Tree
from support.errors import SAME_COMMAND, InputError, Parser, run_program
from support.files import at_work_in, write_atomic, writing_to
from support.processes import Pool
from support.progress import progress_bar

SCORE = "score.json"


def parser() -> Parser:
    parser = Parser("python -m scripts.synth.score", "Score the synthetic frames of a run.")
    add_run_flags(parser)
    group = parser.add_argument_group("weights; without them a metric is reported as unavailable")
    group.add_argument("--inception_weights", default="", metavar="FILE", help="for FID and KID")
    group.add_argument("--lpips_weights", default="", metavar="FILE", help="torchvision's AlexNet, for LPIPS")
    group.add_argument("--clip_model", default="", metavar="FOLDER", help="for CLIP; or a model's id")
    group.add_argument("--offline", action="store_true", help="never fetch a model by its id")
    return parser


def samples_of(run: SynthRun, images: bool) -> Iterator[ScoredSample]:
    """The integrated samples in scope."""
    for source in run.scope:
        generated = {line["key"]: line for line in run.lines(source, "generate")}
        for line in run.lines(source, "integrate")[:-1]:
            if line["status"] == "ok":
                yield ScoredSample(run.tree.out, source, line, generated[line["key"]], images)


def main(arguments: list[str] | None = None) -> int:
    flags = parser().parse_args(arguments)
    out = out_of(flags)
    options = saved_options(out)
    with at_work_in(out):
        score(SynthRun.of(Tree(SYNTH, out, fingerprint_settings(options), Shard()), flags, options), flags)
    return 0


def score(run: SynthRun, flags: argparse.Namespace) -> None:
    """Measure the samples in scope, write the metrics and print them. InputError if there are none."""
    total = run.counts("integrate", run.scope)["ok"]
    if not total:
        raise InputError(
            f"--out {run.tree.out}: holds no integrated sample; python -m scripts.synth.run makes them"
        )
    weights = Weights(flags.inception_weights, flags.lpips_weights, flags.clip_model, flags.offline)
    networks = Networks(weights)
    means = {"all": {name: Mean() for name in NUMBERS}}
    with Pool(flags.num_workers) as pool:
        seen = bool(networks.metrics)
        results = progress_bar(pool.map(measure, samples_of(run, seen)), "score", total, "sample")
        for found, sample in zip(results, samples_of(run, seen), strict=True):
            of_class = means.setdefault(sample.integrated["class"], {name: Mean() for name in NUMBERS})
            for name in NUMBERS:
                means["all"][name].add(found[name])
                of_class[name].add(found[name])
            if seen:
                networks.add(found["real"], found["made"], sample.generated["prompt"])
    learned = networks.results()

    explained = NUMBERS | score_networks.NUMBERS
    numbers = {
        group: {name: mean.to_json() for name, mean in found.items()} for group, found in means.items()
    }
    content = {"samples": total, "backend": run.options.backend, "definitions": explained}
    content |= {"numbers": numbers, "networks": learned}
    with writing_to(run.tree.out):
        write_atomic(run.tree.out / SCORE, (json.dumps(content, indent=1) + "\n").encode())
    rows = [(name, str(mean)) for name, mean in means["all"].items()]
    rows += [(name, value if isinstance(value, str) else f"{value:.4g}") for name, value in learned.items()]
    width = max(len(value) for _, value in rows)
    for name, value in rows:
        print(f"{name:<26} {value:<{width}}  {explained[name]}")
    print(f"{total} samples, {run.options.backend}: {run.tree.out / SCORE}")


if __name__ == "__main__":
    run_program(main, SAME_COMMAND)
