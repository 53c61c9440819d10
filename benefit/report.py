"""What a measurement found: metrics of every arm over seeds, beside `real`; benefit.json, Markdown, plot."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benefit.arms import ARMS, arm_of, base_of, models_of
from benefit.options import BenefitOptions
from benefit.sharing import RESULT, read_result
from benefit.tasks import SETTINGS, Case, cases_of
from support.files import listed, write_atomic

METRICS = {"person": "person AP", "mean": "mean AP over classes"}
OFFICIAL = {"official_person": "official person AP", "official_mean": "official mean AP"}  # where measured
BASE = "real"
CONFIDENCE = 0.95


def summarise(options: BenefitOptions, out: Path) -> dict:
    """All metrics of the arms that are finished.

    "held_out" and, with options.final, "final": rows with n, arm, and for each of METRICS, of the classes,
    and of OFFICIAL where measured, the values (0..1) by seed, their mean and spread, and the difference to
    `real`; "cost": seconds by n and arm.
    """
    sets = {"held_out": Case.arm} | ({"final": Case.final} if options.final else {})
    settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    content = {"settings": settings, "cost": [_cost(options, out, n, arm) for n, arm in _rows(options)]}
    for name, place in sets.items():
        content[name] = rows_of(options, lambda case, arm, place=place: read_result(out, place(case, arm)))
    return content


def rows_of(options: BenefitOptions, result_of: Callable[[Case, str], dict | None]) -> list[dict]:
    """A row for each n and arm; result_of(case, arm): what `segment.training.measure` returned, or None."""
    found: dict[tuple[int, str], dict[int, dict]] = {}
    for case in cases_of(options):
        for arm in options.arms:
            if result := result_of(case, arm):
                found.setdefault((case.n, arm), {})[case.seed] = metrics_of(result)
    metrics = dict.fromkeys(name for values in found.values() for one in values.values() for name in one)
    rows = []
    for n, arm in _rows(options):
        values = found.get((n, arm), {})
        base = found.get((n, BASE), {})
        row = {"n": n, "arm": arm}
        for metric in metrics:
            own = {seed: one[metric] for seed, one in values.items() if one.get(metric) is not None}
            pairs = [
                (own[seed], base[seed][metric])
                for seed in own
                if arm != BASE and base.get(seed, {}).get(metric) is not None
            ]
            row[metric] = {"by_seed": own, **spread(list(own.values())), "to_real": difference(pairs)}
        rows.append(row)
    return rows


def metrics_of(result: dict) -> dict[str, float | None]:
    """AP of persons, over classes, of each class, and that of the official program if it was asked."""
    coco, official = result["coco"], result.get("cityscapes")
    found = {"mean": coco["AP"]} | {name: one["AP"] for name, one in coco["classes"].items()}
    if official:
        found |= {"official_person": official["classes"]["person"]["AP"], "official_mean": official["AP"]}
    return found


def spread(values: list[float]) -> dict:
    """Mean and sample standard deviation, None where there are too few values."""
    return {
        "mean": float(np.mean(values)) if values else None,
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def difference(pairs: list[tuple[float, float]]) -> dict | None:
    """Mean difference of pairs (arm, real) with the half-width of its 95 % interval by Student's t."""
    if not pairs:
        return None
    differences = [one - other for one, other in pairs]
    found = spread(differences)
    half = None
    if len(pairs) > 1:
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1)
        half = float(quantile * found["deviation"] / np.sqrt(len(pairs)))
    return {"mean": found["mean"], "half_width": half, "pairs": len(pairs)}


def finished_arms(options: BenefitOptions, out: Path) -> list[str]:
    """The arms that OUT holds results of, for the numbers of scenes and the seeds of the options."""
    paths = [path for case in cases_of(options) for path in listed(out, f"{case.name}/arms/*/{RESULT}")]
    return sorted({unquote(path.parent.name) for path in paths})


def _rows(options: BenefitOptions) -> list[tuple[int, str]]:
    arms = sorted(options.arms, key=lambda name: list(ARMS).index(base_of(name)))
    return [(n, arm) for n in options.n for arm in arms]


def _cost(options: BenefitOptions, out: Path, n: int, arm: str) -> dict:
    """Mean seconds over the seeds that are finished: training the model of places, making data, training."""
    about = arm_of(arm)
    made = [about.data(recipe) for recipe in about.recipes]
    cases = [case for case in cases_of(options) if case.n == n]
    parts = {
        "placement": [case.model(model) for case in cases for model in models_of(about)],
        "data": [case.data(one) for case in cases for one in made],
        "training": [case.arm(arm) for case in cases],
    }
    cost = {"n": n, "arm": arm}
    for part, names in parts.items():
        seconds = [result["seconds"] for name in names if (result := read_result(out, name))]
        per_case = len(made) if part == "data" else 1
        cost[part] = float(np.mean(seconds)) * per_case if seconds else 0.0
    objects = [
        result["objects"]
        for case in cases
        for one in made
        if (result := read_result(out, case.data(one))) and "objects" in result
    ]
    return cost | {"objects": float(np.mean(objects)) if objects else 0.0}


# ---- shown --------------------------------------------------------------------------------------


def write_report(options: BenefitOptions, out: Path) -> str:
    """Write benefit.json, benefit.md and a plot for each set of scenes; the Markdown.

    Arms that OUT holds beside those of the options are in it, too.
    """
    options = replace(options, arms=tuple(dict.fromkeys([*options.arms, *finished_arms(options, out)])))
    content = summarise(options, out)
    text = markdown(content)
    write_atomic(out / "benefit.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(out / "benefit.md", text.encode(errors="backslashreplace"))
    for name in ("held_out", "final"):
        if name in content:
            plot(content[name], out / f"benefit_{name}.png")
    return text


def markdown(content: dict) -> str:
    """Tables in points of 100: mean ± deviation over seeds, difference to `real` with its 95 % interval."""
    parts = []
    for name, title in (("held_out", "Held-out scenes"), ("final", "Second held-out scenes")):
        if name not in content:
            continue
        rows = [row for row in content[name] if row.get("mean", {}).get("by_seed")]
        columns = METRICS | {
            metric: title for metric, title in OFFICIAL.items() if rows and metric in rows[0]
        }
        parts.append(_metrics_table(f"{title}:", rows, columns))
        classes = {
            metric: metric
            for metric, found in (rows[0].items() if rows else ())
            if metric not in ("n", "arm", *columns) and any(row[metric]["mean"] is not None for row in rows)
        }
        parts.append(_metrics_table(f"{title}, AP of each class:", rows, classes))
    known = [row for row in content["cost"] if row["training"]]
    rows = [["n", "training data", "objects", "model of places, s", "making data, s", "training and AP, s"]]
    for row in known:
        numbers = [f"{row[part]:.0f}" for part in ("objects", "placement", "data", "training")]
        rows.append([str(row["n"]), row["arm"], *numbers])
    parts.append(_table("Cost, mean over seeds:", rows))
    arms = {row["arm"]: arm_of(row["arm"]) for row in known}
    rows = [["training data", "beside the scenes", "differs"]]
    rows += [[name, arm.meaning, arm.differs] for name, arm in arms.items()]
    parts.append(_table("What is compared:", rows))
    return "\n\n".join(parts) + "\n"


def _metrics_table(title: str, rows: list[dict], metrics: dict[str, str]) -> str:
    """A line for each n and arm, two columns for each metric."""
    heads = ["n", "training data", "seeds"]
    heads += [head for label in metrics.values() for head in (label, "to real")]
    lines = [heads]
    for row in rows:
        cells = [str(row["n"]), row["arm"], str(len(row["mean"]["by_seed"]))]
        for metric in metrics:
            cells += [_with_spread(row[metric]), _with_interval(row[metric]["to_real"])]
        lines.append(cells)
    return _table(title, lines)


def _table(title: str, rows: list[list[str]]) -> str:
    """A title and a Markdown table of these rows, the first its heading."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join([title, "", *("| " + " | ".join(cells) + " |" for cells in rows)])


def _with_spread(metric: dict) -> str:
    if metric["mean"] is None:
        return "-"
    deviation = "" if metric["deviation"] is None else f" ± {100 * metric['deviation']:.1f}"
    return f"{100 * metric['mean']:.1f}{deviation}"


def _with_interval(found: dict | None) -> str:
    if found is None:
        return "-"
    half = "" if found["half_width"] is None else f" ± {100 * found['half_width']:.1f}"
    return f"{100 * found['mean']:+.1f}{half}"


def plot(rows: list[dict], path: Path) -> None:
    """Person AP of each arm with a line for each seed, and its differences to `real` with their interval."""
    sizes = list(dict.fromkeys(row["n"] for row in rows))
    figure = Figure(figsize=(10, 3.2 * len(sizes)), layout="constrained")
    for (absolute, relative), n in zip(figure.subplots(len(sizes), 2, squeeze=False), sizes, strict=True):
        of_size = [row for row in rows if row["n"] == n and row.get("person", {}).get("by_seed")]
        found = {row["arm"]: row["person"] for row in of_size}
        names, places = list(found), range(len(found))
        colours = [f"C{list(ARMS).index(base_of(name))}" for name in names]
        absolute.bar(places, [100 * found[name]["mean"] for name in names], color=colours, alpha=0.6)
        for seed in sorted({seed for name in names for seed in found[name]["by_seed"]}):
            line = [100 * found[name]["by_seed"].get(seed, np.nan) for name in names]
            absolute.plot(places, line, "k.-", linewidth=0.6)
        absolute.set_ylabel("person AP, points")
        absolute.set_title(f"{n} scenes: mean, a line for each seed", fontsize=9)
        for place, name in enumerate(names):
            if pairs := found[name]["to_real"]:
                half = 100 * (pairs["half_width"] or 0)
                relative.errorbar(place, 100 * pairs["mean"], half, fmt="o", color=colours[place], capsize=4)
        relative.axhline(0, color="k", linewidth=0.6)
        relative.set_ylabel(f"difference to {BASE}, points")
        relative.set_title("paired by seed, 95 % interval", fontsize=9)
        for axes in (absolute, relative):
            axes.set_xticks(places, names, rotation=20, fontsize=8)
            axes.set_xlim(-0.6, len(names) - 0.4)
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_atomic(path, png.getvalue())
