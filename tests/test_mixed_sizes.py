"""Every program on one tree whose images differ in size, shape and format, in a folder that is no UTF-8."""

import os
from pathlib import Path

import pytest
from PIL import Image

import main
from data.camera import Camera
from data.frame import Frame, list_frames
from data.writer import rasterise
from demo import actions
from demo.files import write_zip
from demo.images import thumbnail
from demo.options import DemoOptions
from demo.state import FORCED, Wishes, begin
from demo.studio import Studio
from engine.records import write_outputs
from insertion import InsertInstances, make_bank
from scripts import evaluate, heatmap, insert, segment
from scripts.synth import run as synthesise
from scripts.synth import score
from tests.mini_frames import mini_image, mini_objects
from tests.programs import run_here
from tests.town import write_density_checkpoint

SIZES = ((256, 128), (214, 142), (120, 213), (150, 150))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder whose name is no UTF-8 (Latin-1, as old archives unpack): tree/ and a model, person/."""
    folder = tmp_path_factory.mktemp("mixed") / os.fsdecode(b"Stra\xdfe")
    for split, city in (("train", "ash"), ("val", "oak")):
        for index, (width, height) in enumerate(SIZES):
            objects = mini_objects(index, width, height)
            camera = Camera(1.1 * width, 1.1 * width, width / 2, height / 2, 1.25, 0.04)
            rgb, maps = mini_image(objects, index, width, height), rasterise(objects, width, height)
            frame = Frame.official(None, split, city, index, 19)
            write_outputs(folder / "tree", frame.files(rgb, objects, *maps, camera))
        path = list_frames(folder / "tree", split)[1].image_path
        Image.open(path).save(path.with_suffix(".JPG"), quality=95)
        path.unlink()
    write_density_checkpoint(folder / "person")
    return folder


INSERT = (
    "insert --checkpoint {person} --db_root {tree} --out {out}/inserted --per_image 1 --no_gate --may_hide"
    " --preview 3 --coco --num_workers 0 --render "
)
MAIN = "main --preset tiny --db_root {tree} --cache_dir {out}/cache --run_dir {out}/run --max_iters 1"
LINES = {
    "training": (MAIN, MAIN + " --resume auto"),
    "evaluation": (
        "evaluate --checkpoint {person} --db_root {tree} --quick --seeds 1 --n_z 2 --out {out}/figures"
        " --cache_dir {out}/cache",
    ),
    **{f"insertion, {name}": (INSERT + name,) for name in ("none", "overlay", "swap", "recolor")},
    "segmenter": (
        "segment --data {tree} --val {tree} --out {out}/run --arch maskrcnn_small_fpn --size 96x64"
        " --iterations 1 --batch_size 2 --num_workers 0 --device cpu",
    ),
    "synthesis": (
        "synthesise --db_root {tree} --out {out}/synth --samples 1 --num_workers 1 --panoptic",
        "score --out {out}/synth --num_workers 1",
    ),
    "heat map": tuple(
        f"heatmap --checkpoint {{person}} --image {{label{number}}} --out {{out}}/{number}.png --n_z 8"
        for number in range(len(SIZES))
    ),
}
PROGRAMS = {
    module.__name__.rpartition(".")[2]: module for module in (main, evaluate, heatmap, insert, segment, score)
} | {"synthesise": synthesise}


@pytest.mark.parametrize("name", LINES)
def test_programs_take_a_tree_of_mixed_sizes_in_a_folder_of_any_name(folder, tmp_path, name):
    out = tmp_path / os.fsdecode(b"\xfcber")
    places = {"tree": folder / "tree", "person": folder / "person", "out": out}
    labels = [frame.label_path for frame in list_frames(folder / "tree", "val")]
    places |= {f"label{number}": path for number, path in enumerate(labels)}
    for line in LINES[name]:
        program, *words = (word.format(**places) for word in line.split())
        done = run_here(PROGRAMS[program].main, *words)
        assert done.returncode == 0, done.stderr
        assert not [line for line in done.stderr.splitlines() if line.startswith(("warning", "error"))]
    if "insertion" in name:
        assert (out / "inserted" / "preview.png").stat().st_size > 1000


def test_the_transform_takes_them_too(folder, tmp_path):
    bank = make_bank(folder / "tree", "train", tmp_path / "bank.npz")
    insert_instances = InsertInstances(folder / "person", (1, 2), 1.0, bank=bank)
    for frame in list_frames(folder / "tree", "train"):
        labels, ids = frame.read_maps()
        image = Image.fromarray(frame.read_image(labels.shape))
        image, (new_ids, _) = insert_instances(image, [ids, labels])
        assert image.size == labels.shape[::-1] and new_ids.shape == labels.shape


def test_the_page_takes_them_too(folder, tmp_path):
    options = DemoOptions(
        (str(folder / "person"),),
        db_root=str(folder / "tree"),
        split="train",
        bank=str(tmp_path / "bank.npz"),
        device="cpu",
    )
    studio = Studio(options)
    for number in range(len(studio.frames)):
        assert thumbnail(studio.scene(number).image).shape[1] == 256
        wishes = Wishes("person", FORCED)
        state = actions.surprise(studio, begin(studio.scene(number)), wishes)
        assert len(state.objects) == 1, state.message
        assert write_zip(state, tmp_path / "scene.zip").stat().st_size > 1000
