"""Evaluation from the command line: metrics of built-in scenes, layout of the results, bad input."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.camera import published_camera
from data.geometry import MIN_INSTANCES, boxes_of_theta
from evaluation.collected import HEIGHT_METRICS, OVERLAP_METRICS
from evaluation.metrics import read_views
from evaluation.report import METRICS, remarks
from evaluation.scene import boxes_on, draw_tall_z, draw_z, places_on_maps, sample_scene
from loader.pairs import scene_of
from model import WhereWhat, load_model, sample
from options import PRESETS, Options
from scripts import evaluate
from streets.scenes import write_streets
from support.checkpoints import find_checkpoint
from support.errors import InputError
from tests.miniature import CITY, write_miniature
from tests.programs import as_flags, refused
from tests.town import save_untrained, write_density_checkpoint, write_places_checkpoint
from where import DensityWhere

PLACEMENT = {
    *("support_rate", "metric_height_rate", "plausible_rate", "overlap_rate", "overlap_any_rate"),
    *("metric_height_q25", "metric_height_q50", "metric_height_q75", "height_residual", "height_band_rate"),
    *("inside_rate", "box_spread", "placement_distance"),
}
REPLACEMENT = {
    *("iou_at_1", "iou_at_5", "iou_at_10", "iou50_at_1", "iou50_at_5", "iou50_at_10"),
    *("centre_error", "log_height_ratio"),
}
LEAK = {"leak_decoy", "leak_true"}
LIKELIHOOD = {"nll_foot", "nll_size", "entropy_foot"}
SHAPES = {"shape_precision", "shape_recall", "shape_frechet", "shape_nn_iou"}
MODEL_ONLY = {
    *("mask_spread", "box_change_z_appr", "mask_change_z_spatial", "theta_recon_l1", "mask_recon_l1"),
}


def save_model(run_dir, options: Options) -> None:
    """A checkpoint of an untrained model whose places depend on scene and z."""
    torch.manual_seed(0)
    model = WhereWhat(options)
    with torch.no_grad():
        theta = model.networks["stn"].theta
        theta.weight.normal_(0, 2)
        theta.bias.copy_(torch.tensor([8.0, 0, 0, 0, 4, -1]))
    save_untrained(run_dir / "checkpoints", model)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Built-in scenes (tree), miniature frames (mini: without camera files, dented: with a bad one), a run,
    its full evaluation."""
    root = tmp_path_factory.mktemp("evaluate")
    write_streets(root / "tree", 24, 10, (256, 128), 5)
    write_miniature(root / "mini", "train", count=MIN_INSTANCES, seed=1)
    write_miniature(root / "mini", "few", count=MIN_INSTANCES - 1, seed=1)
    write_miniature(root / "mini", "one", count=1, seed=1)
    write_miniature(root / "mini", "val", count=2, seed=2)
    write_miniature(root / "mini", "empty", count=2, seed=3, empty=2)
    shutil.copytree(root / "mini", root / "dented")
    camera = root / f"dented/camera/val/{CITY}/{CITY}_000001_000019_camera.json"
    camera.parent.mkdir(parents=True)
    camera.write_text('{"intrinsic": {}}')
    save_model(root / "run", Options(**PRESETS["tiny"], cache_dir=str(root / "cache")))
    run(root, "--n_z", 3, "--seeds", 2)
    return root


def flags(root, *more, checkpoint="run", db_root="tree") -> list[str]:
    return ["--checkpoint", str(root / checkpoint), "--db_root", str(root / db_root), *map(str, more)]


def run(root, *more, **inputs) -> dict:
    """What an evaluation returns; inputs: see `flags`."""
    return evaluate.evaluate(evaluate.parse(flags(root, *more, **inputs)))


def read(folder) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_results_have_the_promised_layout(root):
    result = read(root / "run" / "evaluation")
    methods, settings = result["methods"], result["settings"]
    assert list(methods) == ["model", "uniform", "prior", "nearest", "real"]
    every = PLACEMENT | REPLACEMENT | SHAPES | MODEL_ONLY | LEAK | LIKELIHOOD
    assert set(methods["model"]) == every == set(METRICS)
    for name in LEAK | LIKELIHOOD:
        assert methods["model"].pop(name) == {"mean": None, "std": None, "reason": "no density of places"}
    assert set(methods["real"]) == PLACEMENT | SHAPES
    for method in ("uniform", "prior", "nearest"):
        assert set(methods[method]) == PLACEMENT | REPLACEMENT
    for metrics in methods.values():
        for name, metric in metrics.items():
            assert set(metric) == {"mean", "std"} and np.isfinite(metric["mean"]), name
            if name.endswith("rate") or "iou" in name:
                assert 0 <= metric["mean"] <= 1, name
    assert settings["scenes"] == 10 and settings["samples_per_seed"] == 30 and settings["seeds"] == [0, 1]
    assert settings["instances"] > 0 and settings["camera_files"] == 10
    assert settings["erased"] == {"exact": 0, "filled": settings["instances"]}
    assert settings["temperature"] == 1
    assert len(settings["checkpoint_sha256"]) == 64 and settings["options"]["gf_dim"] == 4
    text = (root / "run" / "evaluation" / "evaluation.md").read_text()
    assert all(f"| {name}" in text and f"`{name}`" in text for name in METRICS) and "Settings:" in text
    for name in ("heights", "centres", "rates"):
        assert (root / "run" / "evaluation" / f"evaluation_{name}.png").stat().st_size > 5000


def test_real_instances_are_the_ceiling_and_uniform_boxes_are_not(root):
    methods = read(root / "run" / "evaluation")["methods"]
    mean = {name: {f: value["mean"] for f, value in methods[name].items()} for name in methods}
    assert mean["real"]["support_rate"] > 0.85 and mean["real"]["metric_height_rate"] > 0.85
    assert mean["uniform"]["plausible_rate"] < 0.5 < 0.8 < mean["real"]["plausible_rate"]
    assert 1.4 < mean["real"]["metric_height_q50"] < 1.9
    assert mean["real"]["height_residual"] < mean["uniform"]["height_residual"]
    assert mean["real"]["placement_distance"] < mean["uniform"]["placement_distance"]
    assert mean["uniform"]["box_spread"] > 0.8 and mean["real"]["inside_rate"] == 1
    assert mean["model"]["box_change_z_appr"] == 0
    assert mean["model"]["box_spread"] > 0


@pytest.mark.slow
def test_a_repeated_evaluation_gives_the_same_bytes(root, tmp_path, capsys):
    short = ("--n_z", 2, "--seeds", 2, "--scenes", 2, "--out", tmp_path / "out")
    run(root, *short)
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    assert "support_rate" in capsys.readouterr().out
    torch.manual_seed(1)
    run(root, *short, "--overwrite")
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before


@pytest.mark.slow
def test_quick_measures_placements_only_and_the_same(root, tmp_path):
    result = run(root, "--quick", "--seeds", 2, "--out", tmp_path)
    assert all(set(metrics) == PLACEMENT for metrics in result["methods"].values())
    assert result["settings"]["n_z"] == 4 and "replacement" not in result["settings"]["sample_sizes"]
    three = run(root, "--quick", "--n_z", 3, "--seeds", 2, "--out", tmp_path, "--overwrite")
    full = read(root / "run" / "evaluation")["methods"]
    assert all(three["methods"][method][f] == full[method][f] for method in full for f in PLACEMENT)


def test_without_camera_files_heights_are_judged_by_foot_row(root, tmp_path):
    methods = run(root, "--quick", "--seeds", 1, "--out", tmp_path, db_root="mini")["methods"]
    assert "metric_height_rate" not in methods["real"] and "plausible_rate" in methods["real"]
    assert "height_band_rate" in methods["real"] and methods["real"]["support_rate"]["std"] is None
    assert "placement_distance" not in methods["real"]  # two real boxes are too few


def evaluated(root, out, *more) -> tuple[dict, dict]:
    """Methods of a quick evaluation of the miniature tree, and its settings."""
    result = run(root, "--quick", "--seeds", 2, "--out", out, *more, db_root="mini")
    return result["methods"], result["settings"]


def test_one_training_instance_is_no_foundation(root, tmp_path, capsys):
    methods, _ = evaluated(root, tmp_path, "--train_split", "one")
    absent = {"mean": None, "std": None, "reason": "1 training instance, 30 needed"}
    assert read(tmp_path)["methods"] == methods  # null, not NaN: the file can be read back
    for method in ("uniform", "prior", "nearest"):
        assert set(methods[method]) >= {"support_rate", "plausible_rate", "box_spread", *HEIGHT_METRICS}
        assert all(metric == absent for metric in methods[method].values())
    for method in ("model", "real"):
        assert all(methods[method][name] == absent for name in (*HEIGHT_METRICS, "plausible_rate"))
        assert methods[method]["support_rate"]["mean"] is not None
    assert methods["model"]["overlap_rate"]["mean"] is not None
    assert all(methods["real"][name] == absent for name in OVERLAP_METRICS)
    shown, text = capsys.readouterr().out, (tmp_path / "evaluation.md").read_text()
    for table in (shown, text):
        (row,) = [line for line in table.splitlines() if line.startswith("| height_band_rate")]
        assert row.count("n/a (1 training instance, 30 needed)") == 5
    for name in ("heights", "centres", "rates"):
        assert (tmp_path / f"evaluation_{name}.png").stat().st_size > 5000


def test_shapes_are_not_compared_with_one_training_instance_and_the_model_is_still_measured(root, tmp_path):
    more = ("--n_z", 2, "--seeds", 1, "--out", tmp_path, "--train_split", "one")
    result = run(root, *more, db_root="mini")
    methods = result["methods"]
    assert all(methods[method][name]["mean"] is None for method in ("model", "real") for name in SHAPES)
    assert not SHAPES & set(methods["prior"]) and "shapes" not in result["settings"]["sample_sizes"]
    assert all(methods["model"][name]["mean"] is not None for name in REPLACEMENT | MODEL_ONLY)
    assert all(methods["nearest"][name]["mean"] is None for name in REPLACEMENT)


def test_the_rule_has_its_limit_at_thirty(root, tmp_path):
    few, _ = evaluated(root, tmp_path / "few", "--train_split", "few")
    enough, _ = evaluated(root, tmp_path / "enough")
    assert few["real"]["height_band_rate"]["reason"] == "29 training instances, 30 needed"
    assert all(value["mean"] is not None for metrics in enough.values() for value in metrics.values())


def test_an_assumed_camera_gives_metrics_in_metres_and_is_named(root, tmp_path, capsys):
    methods, settings = evaluated(root, tmp_path, "--train_split", "one", "--camera", "cityscapes")
    assert settings["camera"] == "cityscapes" and settings["camera_files"] == 0
    assert settings["assumed_cameras"]["standard"]["images"] == 2
    assert settings["assumed_cameras"]["standard"]["fx"] == 2262.52
    for text in (capsys.readouterr().out, (tmp_path / "evaluation.md").read_text()):
        assert "camera assumed, not read, for images without a camera file (2)" in text
    camera = published_camera("littleton_000000_000019", 256, 128)
    maps = evaluate.prepare(
        Options(**PRESETS["tiny"], cache_dir=str(root / "cache"), db_root=str(root / "mini")), "val"
    )
    target = load_model(root / "run").target
    views = [view for index in range(2) for view in read_views(maps, index, [target], "cityscapes")]
    metres = [camera.metric_height(*(view.real_boxes * view.size)[0, 1::2]) for view in views]
    median = methods["real"]["metric_height_q50"]["mean"]
    assert min(metres) - 1e-9 <= median <= max(metres) + 1e-9
    assert methods["real"]["plausible_rate"]["mean"] is not None  # by the camera: no fit is needed
    assert methods["prior"]["plausible_rate"]["mean"] is None


def test_a_camera_file_comes_before_an_assumed_one(root, tmp_path):
    result = run(root, "--quick", "--n_z", 3, "--seeds", 2, "--out", tmp_path, "--camera", "cityscapes")
    full = read(root / "run" / "evaluation")["methods"]
    assert all(result["methods"][method][f] == full[method][f] for method in full for f in PLACEMENT)
    assert result["settings"]["assumed_cameras"] == {} and result["settings"]["camera_files"] == 10


@pytest.mark.parametrize(("rate", "said"), [(0.79, True), (0.8, False), (None, False)])
def test_a_rule_that_real_instances_do_not_keep_is_named(rate, said):
    real = {"plausible_rate": {"mean": rate, "std": None}}
    lines = remarks({"real": real}, {"assumed_cameras": {}, "instances": 7})
    assert [("0.790 (7 instances)" in line, "does not fit this data set" in line) for line in lines] == (
        [(True, True)] if said else []
    )


def test_the_where_module_alone_gives_the_sample_s_place(root):
    options = Options(**PRESETS["tiny"], cache_dir=str(root / "cache"), db_root=str(root / "tree"))
    model = load_model(root / "run")
    maps = evaluate.prepare(options, "val", progress=False)
    (view,), content = read_views(maps, 0, [model.target]), maps.load(0)
    z = draw_z(model, view.name, range(2), 3, "test")
    scene = scene_of(content).to(model.device)
    places = model.where.on(scene.labels_small, scene.ids_small)
    boxes, masks = sample_scene(model, places, scene, *z, batch_size=4)
    again = boxes_on(places_on_maps(model, view.label_ids, view.instance_ids), z[0], model.device)
    assert np.allclose(boxes, again, atol=1e-5) and masks.shape == (2, 3, *model.maps.compact)
    spatial, appr = (torch.from_numpy(noise[1, 2].copy())[None, :, None, None] for noise in z)
    theta = sample(model, scene, spatial, appr).theta.numpy()
    assert np.allclose(boxes_of_theta(theta, 1, 1)[0], boxes[1, 2], atol=1e-5)


@pytest.fixture(scope="module")
def density(root):
    """A model with a density of places, measured on scenes with exact erasures: the run's folder."""
    write_streets(root / "exact", 24, 4, (256, 128), 5, erased=True)
    write_density_checkpoint(root / "density" / "checkpoints")
    return root / "density"


def test_places_and_instances_below_min_height_are_left_out(density, root, monkeypatch):
    cache, more = root / "cache", ("--quick", "--n_z", 9, "--seeds", 1, "--min_height", 0.2)
    more += ("--cache_dir", cache, "--out", root / "tall")
    result = run(root, *more, checkpoint="density", db_root="exact")
    model = load_model(density)
    options = dataclasses.replace(model.options, db_root=str(root / "exact"), cache_dir=str(cache))
    maps = evaluate.prepare(options, "val", progress=False)
    (view,) = read_views(maps, 0, [model.target])
    places = places_on_maps(model, view.label_ids, view.instance_ids)
    plain = boxes_on(places, draw_z(model, view.name, range(2), 9, "t")[0], model.device)
    heights = plain[..., 3] - plain[..., 1]
    kept = heights >= np.median(heights)
    z, _ = draw_tall_z(model, places, view.name, range(2), 9, "t", np.median(heights))
    tall = boxes_on(places, z, model.device)
    assert (tall[..., 3] - tall[..., 1] >= np.median(heights)).all() and not kept.all()
    assert np.array_equal(plain[kept], tall[kept])
    monkeypatch.setattr("evaluation.scene.REDRAWN", 3)
    with pytest.raises(InputError, match=r"--min_height 1.5: 3 places drawn in .*, and some are still"):
        draw_tall_z(model, places, view.name, range(2), 9, "t", 1.5)
    of_all = [one.box for index in range(len(maps)) for one in maps.instances(index, "person")]
    high = sum(y1 + 1 - y0 >= 0.2 * maps.measured[1] for _, y0, _, y1 in of_all)
    assert 0 < high < len(of_all) and result["settings"]["instances"] == high


def of_density(root, db_root: str, *more) -> tuple[dict, dict]:
    """The model's metrics in a full evaluation of the density, and its settings."""
    short = ("--n_z", 2, "--seeds", 2, "--scenes", 4)
    result = run(root, *short, *more, checkpoint="density", db_root=db_root)
    return result["methods"]["model"], result["settings"]


@pytest.mark.slow
def test_leak_is_measured_where_places_have_a_density(root, density, tmp_path, capsys):
    cache = ("--cache_dir", root / "cache")
    exact, settings = of_density(root, "exact", "--out", tmp_path / "exact", *cache)
    assert settings["erased"] == {"exact": settings["instances"], "filled": 0}
    assert settings["sample_sizes"]["decoys"] > 0
    assert all(exact[name]["mean"] > 0 for name in LEAK) and exact["leak_true"]["std"] == 0
    assert exact["theta_recon_l1"]["reason"] == "z and theta determine each other"
    assert exact["mask_recon_l1"]["mean"] > 0
    printed, text = capsys.readouterr().out, (tmp_path / "exact" / "evaluation.md").read_text()
    said = f"{settings['instances']} erased exactly, 0 holes filled"
    assert f"re-placement: {said}" in printed and said in text
    assert "temperature" not in printed and "leak_decoy ↓ (goal ≤ 1.15)" in printed

    filled, settings = of_density(root, "tree", "--out", tmp_path / "filled", *cache)
    assert settings["erased"] == {"exact": 0, "filled": settings["instances"]}
    assert filled["leak_true"] == {"mean": None, "std": None, "reason": "no exact erasures"}
    assert filled["leak_decoy"] == exact["leak_decoy"]  # the same scenes: no erasure is needed for it
    differing = [name for name in REPLACEMENT if filled[name] != exact[name]]
    assert differing  # maps without the instance are others


@pytest.mark.slow
def test_the_temperature_changes_the_places_and_is_named(root, density, tmp_path, capsys):
    cache = ("--cache_dir", root / "cache", "--quick")
    learnt, _ = of_density(root, "tree", "--out", tmp_path / "learnt", *cache)
    capsys.readouterr()
    cool, settings = of_density(root, "tree", "--out", tmp_path / "cool", "--temperature", 0.25, *cache)
    assert cool["box_spread"]["mean"] < learnt["box_spread"]["mean"]
    assert settings["temperature"] == 0.25 and "2 seeds, temperature 0.25" in capsys.readouterr().out
    assert "instances, temperature 0.25\n" in (tmp_path / "cool" / "evaluation.md").read_text()


@pytest.mark.slow
def test_the_density_of_a_scene_is_worked_out_once(root, density, tmp_path, monkeypatch):
    batches, density_of = [], DensityWhere.density

    def counted(where, labels, temperature=1.0):
        batches.append(len(labels))
        return density_of(where, labels, temperature)

    monkeypatch.setattr(DensityWhere, "density", counted)
    of_density(root, "tree", "--quick", "--batch_size", 1, "--out", tmp_path, "--cache_dir", root / "cache")
    assert batches == [1] * 4  # scenes, whatever the number of z and seeds


@pytest.fixture(scope="module")
def places(root):
    """Places of three classes alone, untrained, of which buses are in no scene: the run's folder."""
    write_places_checkpoint(root / "places" / "checkpoints", "person,bus,car")
    return root / "places"


def test_all_classes_are_measured_in_one_run(root, density, places, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--n_z", 2, "--seeds", 2, "--scenes", 4, "--cache_dir", root / "cache", "--out", out)
    result = run(root, *arguments, checkpoint="places", db_root="exact")
    printed = capsys.readouterr().out
    assert list(result["classes"]) == ["person", "car"] and "usable bus" in result["left_out"][0]
    assert result == read(out) and "usable bus" in printed and "2 seeds" in printed
    for name, one in result["classes"].items():
        assert one == read(out / name) and one["settings"]["target_class"] == name
        model = one["methods"]["model"]
        assert PLACEMENT | REPLACEMENT | LEAK | {"nll_foot", "nll_size"} <= set(model)
        assert not SHAPES & set(model) and "mask_spread" not in model
        assert {"nll_foot", "nll_size"} <= set(one["methods"]["prior"])
        (row,) = [line for line in printed.splitlines() if line.startswith(f"| {name} ")]
        assert f"| {one['settings']['instances']} " in row
        assert f"{model['plausible_rate']['mean']:.3f}" in row
        assert f"{one['methods']['real']['plausible_rate']['mean']:.3f}" in row
        assert (out / name / "evaluation_heights.png").stat().st_size > 5000
    persons, cars = (result["classes"][name]["methods"]["model"] for name in ("person", "car"))
    assert persons["nll_foot"] != cars["nll_foot"]

    more = (*arguments, "--target_class", "car", "--overwrite")
    single = run(root, *more, checkpoint="places", db_root="exact")
    assert single["methods"] == result["classes"]["car"]["methods"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoint": None}, "--checkpoint"),
        ({"checkpoint": "nowhere"}, "no checkpoint here"),
        ({"checkpoint": "mini"}, "no checkpoint here"),
        ({"checkpoint": "cut.pt"}, "cut.pt: not a readable checkpoint"),
        ({"checkpoint": "other.pt"}, "other.pt: not a checkpoint of this program"),
        ({"checkpoint": "builtin:horse"}, "builtin:person"),
        ({"checkpoint": "builtin:person", "out": None}, "give --out"),
        ({"db_root": None}, "--db_root"),
        ({"db_root": "nowhere"}, "no such folder"),
        ({"db_root": "note.txt"}, "no such folder"),
        ({"db_root": "run"}, "gtFine"),
        ({"db_root": "hollow"}, "holds no CITY"),
        ({"db_root": "dented"}, "camera.json: not a camera file"),
        ({"split": "test"}, "no such split, only empty, few, one, train, val"),
        ({"train_split": "extra"}, "no such split"),
        ({"split": "empty"}, "none of 2 images of empty holds a usable person"),
        ({"train_split": "empty"}, "usable person; choose another --train_split"),
        ({"camera": "nikon"}, "'cityscapes'"),
        ({"target_class": "car"}, "has places of person only; choose"),
        ({"target_class": "person,unicorn"}, "'unicorn' is unknown"),
        ({"checkpoint": "places", "target_class": "rider"}, "has places of person, bus, car only"),
        ({"checkpoint": "places", "target_class": "bus"}, "usable bus"),
        ({"n_z": 1}, "n_z must be at least 2"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seeds": "few"}, "--help"),
        ({"scenes": 0}, "scenes must be at least 1"),
        ({"temperature": 0}, "--temperature must be above 0"),
        ({"temperature": "nan"}, "temperature must be a finite number"),
        ({"temperature": 0.5}, "the published where module has none; leave it out"),
        ({"out": None}, "give --overwrite"),
        ({"out": "note.txt"}, "--out note.txt: can't be written"),
        ({"out": "note.txt/out"}, "--out note.txt/out: can't be written"),
        ({"cache_dir": "note.txt"}, "set another --cache_dir"),
        ({"device": "abacus"}, "abacus"),
        ({"colour": "red"}, "--help"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(
    root, places, change, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for path in root.iterdir():
        Path(path.name).symlink_to(path)
    Path("note.txt").write_text("mine")
    Path("cut.pt").write_bytes(find_checkpoint("run").read_bytes()[:-1000])
    torch.save({"format": 1}, "other.pt")
    Path("hollow/gtFine/val").mkdir(parents=True)
    given = {"checkpoint": "run", "db_root": "mini", "out": "out/new", "cache_dir": "cache", "quick": []}
    assert words in refused(evaluate.main, *as_flags(given | change), keeps=tmp_path)
