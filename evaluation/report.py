"""The evaluation for people: one Markdown table with its definitions, and plots."""

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data.camera import assumption_lines
from data.geometry import HeightFit
from support.files import write_atomic

METHODS = {
    "model": "the checkpoint; its box is that of theta",
    "uniform": "a box anywhere in the image, height log-uniform over the training range, shape from training",
    "prior": "the box of a training instance, whatever the scene",
    "nearest": "the box of an instance of the most similar other training scene, by small maps",
    "real": "held-out instances: the ceiling",
}

# Name -> (what is better, definition), in the order of the table.
METRICS = {
    "support_rate": ("up", "at least half of the strip below the foot is a surface the class stands on"),
    "metric_height_rate": (
        "up",
        "height in metres, by the camera, within the plausible range of the class",
    ),
    "metric_height_q25": ("", "first quartile of that height, m"),
    "metric_height_q50": ("", "median of that height, m"),
    "metric_height_q75": ("", "third quartile of that height, m"),
    "plausible_rate": (
        "up",
        "support and metric height both (without a camera: support and height band)",
    ),
    "height_residual": (
        "down",
        "median |log(height / height fitted to the foot row)|, fit of the training instances",
    ),
    "height_band_rate": ("up", "that log ratio within the training instances' 2nd to 98th percentile"),
    "overlap_rate": (
        "down",
        "more than 0.3 of the mask is occluded by what stands in front, things and poles; all but a model"
        " that draws shapes fill their boxes with training masks",
    ),
    "overlap_any_rate": ("down", "more than 0.3 of the mask falls on what stands, in front or behind"),
    "inside_rate": ("up", "the box lies in the image"),
    "box_spread": ("up", "mean 1 - IoU over pairs of boxes in one scene"),
    "placement_distance": (
        "down",
        "sliced 2-Wasserstein distance to real boxes in (centre x, foot, log height, log width), each over"
        " its real standard deviation; real: one half to the other",
    ),
    "mask_spread": ("up", "mean 1 - IoU over pairs of compact masks with different z_appr, same z_spatial"),
    "box_change_z_appr": (
        "down",
        "largest change of a box edge, pixels, when only z_appr changes; must be 0",
    ),
    "mask_change_z_spatial": (
        "down",
        "mask spread over z_spatial with the same z_appr, as a fraction of mask_spread",
    ),
    "shape_precision": ("up", "generated shapes within the manifold of training shapes (k = 3)"),
    "shape_recall": ("up", "training shapes within the manifold of generated shapes (k = 3)"),
    "shape_frechet": ("down", "Frechet distance to training shapes on 64 principal components"),
    "shape_nn_iou": ("", "IoU with the nearest training shape; far above that of real ones means copying"),
    "iou_at_1": ("up", "re-placement: IoU of the first placement with the box of the erased instance"),
    "iou_at_5": ("up", "re-placement: best IoU of 5"),
    "iou_at_10": ("up", "re-placement: best IoU of 10"),
    "iou50_at_1": ("up", "re-placement: fraction of instances with an IoU of 0.5 or more"),
    "iou50_at_5": ("up", "re-placement: the same, best of 5"),
    "iou50_at_10": ("up", "re-placement: the same, best of 10"),
    "centre_error": ("down", "re-placement: distance of the first placement's centre over the image width"),
    "log_height_ratio": ("down", "re-placement: |log(height / true height)| of the first placement"),
    "nll_foot": (
        "down",
        "nats of held-out feet in maps without the instance, over the unit square; uniform: 0, prior: a"
        " kernel density of the training boxes",
    ),
    "nll_size": (
        "down",
        "nats of log height and log aspect, given the foot; uniform: over the training range, prior: as"
        " above",
    ),
    "entropy_foot": (
        "",
        "nats that the model expects of its own feet on untouched maps of scenes without the class; with fair"
        " erasing and confidence near nll_foot",
    ),
    "leak_decoy": (
        "down",
        "probability of the 5x5 cells at the foot of a hole where nothing stood, filled / before; fair: 1",
    ),
    "leak_true": (
        "down",
        "the same at the foot of an erased instance, its hole filled / erased exactly; fair: 1",
    ),
    "theta_recon_l1": ("down", "mean |difference| of theta's six numbers, supervised path with mu"),
    "mask_recon_l1": ("down", "mean |difference| of the compact mask, supervised path with mu"),
}
OF_CLASSES = (
    "plausible_rate",
    "overlap_rate",
    "support_rate",
    "placement_distance",
    "iou_at_5",
    "nll_foot",
    "nll_size",
)
GOALS = {"leak_decoy": 1.15, "leak_true": 1.3}  # at most
REAL_PLAUSIBLE = 0.8  # plausible_rate of real instances below which the rule does not fit a data set
_ARROWS = {"up": " ↑", "down": " ↓", "": ""}


def _shown(results: dict) -> list[str]:
    """The metrics that any method has, in the order of METRICS."""
    return [name for name in METRICS if any(name in metrics for metrics in results.values())]


def table(results: dict) -> str:
    """The Markdown table of `results` (`evaluation.collected.summarise`), one row a metric."""
    shown = _shown(results)
    rows = [["metric", *results]]
    rows += [[_title(name), *(_cell(results[method].get(name)) for method in results)] for name in shown]
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    """A Markdown table of these rows, the first its heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def summary_of_classes(summary: dict) -> str:
    """The text of evaluation.md for several classes, from what evaluation.json holds: a table and remarks."""
    evaluations = summary["classes"]
    results = {name: one["methods"] for name, one in evaluations.items()}
    shown = [name for name in OF_CLASSES if any(name in methods["model"] for methods in results.values())]
    rows = [["class", "instances", *map(_title, shown)]]
    for class_name, methods in results.items():
        instances = str(evaluations[class_name]["settings"]["instances"])
        rows.append([class_name, instances, *(_beside(methods, name) for name in shown)])
    lines = list(summary["left_out"])
    for class_name, one in evaluations.items():
        lines += [f"{class_name}: {line}" for line in remarks(one["methods"], one["settings"])]
    return "\n".join([_aligned(rows), "", "The model, in parentheses prior / real.", *lines, ""])


def _beside(methods: dict, name: str) -> str:
    """A metric of the model, in parentheses that of prior and of real instances."""
    prior, real = (methods[method].get(name) for method in ("prior", "real"))
    means = ["-" if one is None or one["mean"] is None else f"{one['mean']:.3f}" for one in (prior, real)]
    return f"{_cell(methods['model'].get(name))} ({' / '.join(means)})"


def _title(name: str) -> str:
    goal = f" (goal ≤ {GOALS[name]})" if name in GOALS else ""
    return name + _ARROWS[METRICS[name][0]] + goal


def _cell(metric: dict | None) -> str:
    if metric is None:
        return ""
    if metric["mean"] is None:
        return f"n/a ({metric['reason']})"
    spread = "" if metric["std"] is None else f" ± {metric['std']:.3f}"
    return f"{metric['mean']:.3f}{spread}"


def remarks(results: dict, settings: dict) -> list[str]:
    """What a reader of the table must know: cameras assumed, and a rule that real instances do not keep."""
    lines = assumption_lines(settings["assumed_cameras"])
    rate = results["real"]["plausible_rate"]["mean"]
    if rate is not None and rate < REAL_PLAUSIBLE:
        lines.append(
            f"plausible_rate of real instances is {rate:.3f} ({settings['instances']} instances), below"
            f" {REAL_PLAUSIBLE}: the rule does not fit this data set, so its rates tell nothing here"
        )
    return lines


def erasing(erased: dict[str, int]) -> str:
    """How the instances that were placed again had been erased."""
    return f"{erased['exact']} erased exactly, {erased['filled']} holes filled"


def restrictions(temperature: float, min_height: float) -> str:
    """What a heading adds if not all places of the learnt density are measured."""
    said = "" if temperature == 1 else f", temperature {temperature:g}"
    return said + (f", at least {min_height:g} of the image high" if min_height else "")


def markdown(evaluation: dict) -> str:
    """The text of evaluation.md, from what evaluation.json holds."""
    results, settings = evaluation["methods"], evaluation["settings"]
    shown = _shown(results)
    sizes, of_the_rest = settings["sample_sizes"], ""
    if not settings["quick"]:
        of_the_rest = (
            f" Re-placement: {sizes['replacement']} placements of each of the {settings['instances']}"
            f" instances for each seed; {erasing(settings['erased'])}."
        )
    if sizes.get("decoys"):
        of_the_rest += f" Leak: {sizes['decoys']} decoys in all."
    if "shapes" in sizes:
        of_the_rest += f" Shapes: {sizes['shapes']} a sample."
    lines = [
        f"# Placement of {settings['target_class']} instances"
        + restrictions(settings["temperature"], settings["min_height"]),
        "",
        table(results),
        "",
        *(f"**Note**: {line}.\n" for line in remarks(results, settings)),
        f"Mean ± standard deviation over {len(settings['seeds'])} seeds; ↑ more is better, ↓ less is better."
        f" Each method and seed: {settings['samples_per_seed']} objects, {settings['n_z']} in each of"
        f" {settings['scenes']} scenes (real: drawn with replacement from {settings['instances']} instances)."
        f" Training: {settings['training_instances']} instances. Placement distance: {sizes['distance']}"
        f" boxes a sample.{of_the_rest}",
        "",
        "Methods:",
        "",
        *(f"- `{name}`: {METHODS[name]}" for name in results),
        "",
        "Figures:",
        "",
        *(f"- `{name}`: {METRICS[name][1]}" for name in shown),
        "",
        "Settings:",
        "",
        *(f"- {name}: {value}" for name, value in settings.items() if name != "options"),
        "",
    ]
    return "\n".join(lines)


# ---- plots --------------------------------------------------------------------------------------


def write_plots(folder: Path, boxes: dict[str, np.ndarray], results: dict, fit: HeightFit | None) -> None:
    """Write evaluation_heights.png, evaluation_centres.png and evaluation_rates.png.

    boxes: for each method that has some (n,4) in fractions of the image size; fit: heights of the training
    instances. A metric without foundation shows its reason.
    """
    heights, centres = Figure(figsize=(3 * len(results), 3)), Figure(figsize=(3 * len(results), 3))
    panels = _scatter(heights, boxes, results, lambda b: (b[:, 3], b[:, 3] - b[:, 1]))
    panels[0].set(xlim=(0, 1), ylim=(0, 1), ylabel="height / image height")
    for panel in panels:
        panel.set_xlabel("foot row / image height")
        if fit:
            _draw_fit(panel, fit)
    if not fit:
        heights.suptitle(f"fit of heights: {_cell(results['real']['height_band_rate'])}", y=1.05)
    _save(heights, folder / "evaluation_heights.png")
    panels = _scatter(centres, boxes, results, lambda b: (b[:, ::2].mean(1), b[:, 1::2].mean(1)))
    panels[0].set(xlim=(0, 1), ylim=(1, 0), ylabel="centre y / image height")
    for panel in panels:
        panel.set_xlabel("centre x / image width")
    _save(centres, folder / "evaluation_centres.png")
    _bars(folder / "evaluation_rates.png", results)


def _scatter(figure: Figure, boxes: dict[str, np.ndarray], results: dict, coordinates) -> np.ndarray:
    """One panel a method, with its boxes or the reason why there are none; the panels (methods)."""
    panels = figure.subplots(1, len(results), sharex=True, sharey=True, squeeze=False)[0]
    for panel, method in zip(panels, results, strict=True):
        panel.set_title(method)
        if method in boxes:
            panel.plot(*coordinates(boxes[method]), ".", markersize=2, alpha=0.5)
        else:
            reason = _cell(results[method]["support_rate"])
            panel.text(0.5, 0.5, reason.replace(", ", ",\n"), ha="center", va="center")
    return panels


def _draw_fit(panel, fit: HeightFit) -> None:
    """The training line and its band."""
    foot = np.linspace(0, 1, 200)
    for factor, style in ((0.0, "-"), (fit.low, ":"), (fit.high, ":")):
        panel.plot(foot, fit.heights(foot) * math.exp(factor), "k" + style, linewidth=1)


def _bars(path: Path, results: dict) -> None:
    """Rates of all methods side by side, with their standard deviations; "n/a" for one without foundation."""
    rates = [
        name
        for name in ("support_rate", "metric_height_rate", "plausible_rate", "overlap_rate", "box_spread")
        if all(name in metrics for metrics in results.values())
    ]
    figure = Figure(figsize=(10, 3))
    axes = figure.subplots()
    for position, (method, metrics) in enumerate(results.items()):
        places = np.arange(len(rates)) + position * 0.16
        axes.bar(
            places,
            [metrics[name]["mean"] or 0 for name in rates],
            0.15,
            yerr=[metrics[name]["std"] or 0 for name in rates],
            label=method,
        )
        for place, name in zip(places, rates, strict=True):
            if metrics[name]["mean"] is None:
                axes.text(
                    place, 0.02, _cell(metrics[name]), rotation=90, ha="center", va="bottom", fontsize=6
                )
    axes.set_xticks(np.arange(len(rates)) + 0.32, rates)
    axes.legend(ncols=len(results), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=120, bbox_inches="tight", metadata={"Software": None})
    write_atomic(path, content.getvalue())
