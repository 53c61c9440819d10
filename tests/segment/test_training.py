"""Training a segmenter: what it learns, exact resume, what it leaves behind, bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from data.frame import Frame
from data.writer import rasterise
from distributed import Ranks
from engine.records import write_outputs
from scripts import segment as program
from segment import training
from segment.models import build
from segment.options import parse
from segment.training import RESULT, learn, measure, read_ground_truths, set_precision
from streets.scenes import write_streets
from support.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from tests.equality import assert_same, stats
from tests.programs import as_flags, refused, run_here, run_ok
from tests.town import box, town_objects

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    """Two scenes to learn from and two to be measured on."""
    root = tmp_path_factory.mktemp("streets") / "tree"
    write_streets(root, 2, 2, (256, 128), seed=3)
    return root


def flags(root: Path, out: Path, **more) -> list[str]:
    small = {"arch": "maskrcnn_small_fpn", "iterations": 4, "batch_size": 2, "optimiser": "adamw"}
    often = {"save_every": 2, "log_every": 1, "picture_every": 4, "num_workers": 0, "device": "cpu"}
    return as_flags({"data": root, "val": root, "out": out, **small, **often, **more})


@pytest.mark.parametrize(("precision", "short"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_a_cpu_counts_in_bf16_only_if_told_so(precision, short):
    options = parse(flags(Path("no"), Path("no"), precision=precision))
    model, seen = build(options.arch, "none"), []
    model.backbone.body.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    set_precision(model, options, CPU)
    features = model.backbone(torch.zeros(1, 3, 64, 64))
    assert seen == [short] and {feature.dtype for feature in features.values()} == {torch.float32}


@pytest.mark.slow
def test_two_scenes_can_be_learnt_by_heart(streets, tmp_path):
    more = {"val_split": "train", "iterations": 180, "learning_rate": 2e-3, "picture_every": 0}
    rare = {"log_every": 60, "save_every": 1000}
    options = parse(flags(streets, tmp_path / "run", least_area=150, **more, **rare))
    ground_truths = read_ground_truths(options)
    metrics = measure(learn(options, ground_truths, CPU, Ranks()), options, ground_truths, CPU)
    assert metrics["coco"]["AP50"] > 0.8


def write_plain_scenes(root: Path) -> None:
    """Two scenes of rectangles, red cars and blue persons, some of them in front of others."""
    for index in range(2):
        shift = 12 * index
        objects = [
            box("road", 0, 0, 255, 127),
            box("car", 10 + shift, 70, 70 + shift, 110),
            box("car", 120 - shift, 60, 160 - shift, 90),
            box("person", 90 + shift, 20, 106 + shift, 60),
            box("person", 190 - shift, 40, 210 - shift, 100),
            box("person", 220, 10 + shift, 236, 50 + shift),
        ]
        labels, ids = rasterise(objects, 256, 128)
        image = np.full((128, 256, 3), 90, np.uint8)
        image[labels == 26], image[labels == 24] = (200, 40, 40), (40, 60, 200)
        image += np.random.default_rng(index).integers(0, 30, image.shape, dtype=np.uint8)
        frame = Frame.official(root, "train", "plain", index, 19)
        write_outputs(root, frame.files(image, objects, labels, ids))


@pytest.mark.slow
def test_two_plain_scenes_are_learnt_to_nearly_every_pixel(tmp_path):
    write_plain_scenes(tmp_path / "tree")
    more = {"val_split": "train", "iterations": 120, "learning_rate": 2e-3, "picture_every": 0}
    options = parse(flags(tmp_path / "tree", tmp_path / "run", **more, save_every=1000, log_every=60))
    ground_truths = read_ground_truths(options)
    metrics = measure(learn(options, ground_truths, CPU, Ranks()), options, ground_truths, CPU)
    assert metrics["coco"]["AP"] > 0.8
    assert metrics["coco"]["AP"] == pytest.approx(metrics["cityscapes"]["AP"], abs=0.1)


def test_a_resumed_run_ends_like_one_that_was_not_stopped(streets, tmp_path):
    whole = parse(flags(streets, tmp_path / "whole"))
    learn(whole, read_ground_truths(whole), CPU, Ranks())
    parts = parse([*flags(streets, tmp_path / "parts"), "--resume", "auto"])
    learn(parts, read_ground_truths(parts), CPU, Ranks())
    for path in list_checkpoints(tmp_path / "parts/checkpoints")[1:]:
        path.unlink()
    learn(parts, read_ground_truths(parts), CPU, Ranks())
    states = [
        load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("whole", "parts")
    ]
    assert states[0]["iteration"] == states[1]["iteration"] == 4
    assert_same(states[0]["networks"], states[1]["networks"])
    assert_same(states[0]["optimisers"], states[1]["optimisers"])
    assert stats(tmp_path / "whole") == stats(tmp_path / "parts")


def test_a_run_leaves_its_folder_and_can_be_measured_again(streets, tmp_path):
    out = tmp_path / "run"
    run_ok(program.main, *flags(streets, out, share=[1.0]))
    names = {path.name for path in out.iterdir() if not path.name.startswith("events")}
    kept = {"options.yaml", "log.txt", "stats.jsonl", "samples", "checkpoints", "predictions", RESULT}
    assert names == kept
    assert [path.name for path in (out / "samples").iterdir()] == ["epoch_00_iter_0004.png"]
    before = json.loads((out / RESULT).read_text())
    assert set(before) == {"coco", "cityscapes"}
    run_ok(program.main, *flags(streets, out), "--eval_only")
    assert json.loads((out / RESULT).read_text()) == before


@pytest.mark.slow
def test_two_processes_train_one_model_together(streets, tmp_path):
    line = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "scripts.segment"]
    done = subprocess.run(
        [sys.executable, *line, *flags(streets, tmp_path / "run", iterations=2, batch_size=1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1])
    assert (state["iteration"], state["samples_seen"]) == (2, 4)
    assert [row["iter"] for row in stats(tmp_path / "run")] == [1, 2]


# ---- bad input ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A folder of weights of other classes, and of good ones."""
    folder, good = tmp_path_factory.mktemp("weights"), build("maskrcnn_small_fpn", "none").state_dict()
    torch.save(good, folder / "good.pt")
    head = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 256)}
    torch.save(good | head, folder / "other.pt")
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    (
        ({"data": "nowhere"}, "--data nowhere: has no folder gtFine/train"),
        ({"val_split": "test"}, "has no folder gtFine/test"),
        ({"share": [1.0, 2.0]}, "--share: 2 numbers for 1 trees"),
        ({"arch": "yolo"}, "--arch: invalid choice"),
        ({"weights": "nowhere.pt"}, "--weights nowhere.pt: no such file"),
        ({"weights": "coco"}, "--weights coco: there are none for maskrcnn_small_fpn"),
        ({"weights": "other.pt"}, "knows 91 classes, these data have 9"),
        ({"weights": "good.pt", "arch": "maskrcnn_resnet18_fpn"}, "weights of another arch"),
        ({"iterations": 0}, "iterations must be at least 1"),
    ),
)
def test_a_mistake_is_one_line_and_status_2(streets, weights, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(weights)
    assert said in refused(program.main, *flags(streets, tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("which", ("data", "val"))
@pytest.mark.parametrize(
    ("objects", "size", "said"),
    (
        ([box("road", 0, 0, 255, 127), box("cargroup", 9, 9, 90, 90)], (256, 128), "no single instance of"),
        (town_objects(0), (200, 128), "200x128 pixels, but its annotation 256x128"),
        (town_objects(0), (128, 256), "128x256 pixels, but its annotation 256x128"),
    ),
)
def test_what_nothing_can_be_learnt_from_is_one_line(streets, tmp_path, which, objects, size, said):
    tree = tmp_path / "tree"
    frame = Frame.official(tree, "train", "town", 0, 19)
    image = np.zeros((128, 256, 3), np.uint8)
    write_outputs(frame.root, frame.files(image, objects, *rasterise(objects, 256, 128)))
    Image.new("RGB", size).save(path := frame.image_path)
    more = {which: tree, "size": "64x32", "val_split": "train"}
    message = refused(program.main, *flags(streets, tmp_path / "run", **more))
    named = f"--{which} {tree}: split train" if "instance" in said else str(path)
    assert f"error: {named}" in message and said in message
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_downloaded_are_one_line(streets, tmp_path, monkeypatch):
    def fail(*_arguments, **_settings):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    options = flags(streets, tmp_path / "run", arch="maskrcnn_resnet18_fpn", weights="imagenet")
    said = "--weights imagenet: can't be downloaded (<urlopen error no network>)"
    assert said in refused(program.main, *options)


def test_a_run_goes_on_with_the_same_options_only(streets, tmp_path):
    options = flags(streets, tmp_path / "run", iterations=1, picture_every=0)
    run_ok(program.main, *options)
    assert "--out" in refused(program.main, *options)
    other = flags(streets, tmp_path / "run", iterations=2, picture_every=0)
    assert "with iterations 1, this run has 2" in refused(program.main, *other, "--resume", "auto")


def test_a_state_of_another_program_is_one_line(streets, tmp_path):
    state = {"iteration": 1, "samples_seen": 1, "options": {}, "networks": {"stn.weight": torch.ones(1)}}
    save_checkpoint(tmp_path / "run/checkpoints", state | {"optimisers": {}, "window": {}}, 1)
    for more in (["--resume", "auto"], ["--eval_only"]):
        message = refused(program.main, *flags(streets, tmp_path / "run"), *more)
        assert "state-00000001.pt: holds no" in message


def test_a_signal_saves_and_shows_in_the_status(streets, tmp_path, monkeypatch):
    real = training.set_rate

    def stopping(optimiser, options, iteration):
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        real(optimiser, options, iteration)

    monkeypatch.setattr(training, "set_rate", stopping)
    done = run_here(program.main, *flags(streets, tmp_path / "run", save_every=100))
    assert done.returncode == 130 and not done.stderr.count("Traceback")
    assert "stopped by SIGINT at iteration 2, saved " in done.stdout
    assert load_checkpoint(list_checkpoints(tmp_path / "run/checkpoints")[-1])["iteration"] == 2
    assert not (tmp_path / "run" / RESULT).exists()
