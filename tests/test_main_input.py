"""What training refuses, with one clear line, exit status 2 and nothing half-written, and what it takes."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import main
from model import load_model
from options import REMOVED, from_dict
from support.checkpoints import list_checkpoints, load_checkpoint
from support.errors import InputError
from tests.equality import assert_same
from tests.miniature import frame_paths, write_miniature, write_png
from tests.programs import refused, run_ok
from tests.trainings import command, flags, run, weights_and_optimisers


@pytest.fixture
def root(tmp_path) -> Path:
    """A data set to spoil."""
    write_miniature(tmp_path / "bad", "train", count=4, seed=1)
    write_miniature(tmp_path / "bad", "val", count=1, seed=2)
    return tmp_path / "bad"


def labels_of(root: Path, index: int) -> Path:
    return frame_paths(root, index)[0]


def as_train_ids(path: Path) -> None:
    table = np.full(256, 255, np.uint8)
    table[[7, 8, 11, 23, 24, 26]] = [0, 1, 2, 10, 11, 13]
    write_png(path, table[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)])


def cut_short(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-40])


PLACES_ALONE = {"where": "distribution", "what": "none"}
NO_STATE = b"PK\x03\x04 not a checkpoint"
BLACK, HALF = np.zeros((128, 256, 3), np.uint8), np.zeros((64, 256), np.uint16)


@pytest.mark.parametrize(
    ("spoil", "options", "words"),  # what is done to the folder, options, what the line says
    [
        (None, {"db_root": "nowhere"}, "nowhere"),
        (lambda root: (root / "gtFine").rename(root / "gtCoarse"), {}, "gtFine"),
        (lambda root: shutil.rmtree(root / "gtFine/train/littleton"), {}, "train"),
        (lambda root: frame_paths(root, 1)[1].unlink(), {}, "littleton_000001_000019|no instance map"),
        (
            lambda root: write_png(frame_paths(root, 1)[1], HALF),
            {},
            "_000001_000019_gtFine_labelIds|256x64",
        ),
        (lambda root: as_train_ids(labels_of(root, 2)), {}, "littleton_000002_000019|train id"),
        (lambda root: write_png(labels_of(root, 0), BLACK), {}, "_000000_000019_gtFine|8-bit RGB image"),
        (
            lambda root: cut_short(labels_of(root, 0), labels_of(root, 3)),
            {},
            "littleton_000000_000019_gtFine_labelIds.png|littleton_000003_000019|--skip_bad_files",
        ),
        (None, {"target_class": "bus"}, "bus"),
        (None, {"target_class": "unicorn"}, "unicorn"),
        (None, {"target_class": "person,unicorn", **PLACES_ALONE}, "unicorn|choose person|or all"),
        (None, {"target_class": "person,car,person", **PLACES_ALONE}, "person is named twice"),
        (
            None,
            {"target_class": "person,bus", **PLACES_ALONE},
            "usable bus|--target_class, for example person",
        ),
        (None, {"target_class": "person,car"}, "--where distribution --what none"),
        (None, {"target_class": "all", "where": "distribution"}, "--where distribution --what none"),
        (None, {"what": "none"}, "--where distribution"),
        (None, {"image_sizey_small": 100}, "100"),
        (None, {"learning_rat": 1}, "learning_rat"),
        (None, {"batch_size": "many"}, "batch_size"),
        (None, {"random_seed": 2**64}, "random_seed must be at least 0 and at most"),
        (None, {"config": "none.yaml"}, "none.yaml"),
        (
            lambda root: Path("odd.yaml").write_text("learning_rat: 0.1"),
            {"config": "odd.yaml"},
            "learning_rat",
        ),
        (None, {"resume": "none.pt"}, "none.pt"),
        (
            lambda root: Path("state-1.pt").write_bytes(NO_STATE),
            {"resume": "state-1.pt"},
            "state-1.pt: not a",
        ),
        (None, {"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(root, tmp_path, monkeypatch, spoil, options, words):
    monkeypatch.chdir(tmp_path)
    if spoil:
        spoil(root)
    options = {"db_root": root, "cache_dir": tmp_path / "cache", **options}
    message = refused(main.main, *flags(tmp_path, tmp_path / "run", **options))
    assert all(word in message for word in words.split("|")), message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bad_input_from_the_shell(streets, tmp_path):
    done = command(flags(streets, tmp_path / "run", db_root=tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "nowhere" in done.stderr


def test_skip_bad_files_goes_on(root, tmp_path):
    cut_short(labels_of(root, 0), labels_of(root, 3))
    options = {"db_root": root, "cache_dir": tmp_path / "cache"}
    printed = run_ok(main.main, *flags(tmp_path, tmp_path / "run", **options), "--skip_bad_files")
    assert "2 training maps" in printed


def test_checkpoint_of_other_options_is_refused(streets, tmp_path):
    run(streets, tmp_path / "run", max_iters=1)
    for name, theirs, ours in (
        ("gf_dim", 4, 8),
        ("df_dim", 4, 5),
        ("embed_dim_small", 16, 17),
        ("embed_dim_big", 24, 25),
        ("z_dim_spatial", 4, 5),
        ("z_dim_appr", 16, 15),
        ("image_sizex_big", 128, 64),
        ("target_class", "person", "car"),
        ("where", "published", "distribution"),
    ):
        with pytest.raises(InputError, match=f"{name} {theirs}, this run has {ours}"):
            run(streets, tmp_path / "run", **{name: ours}, resume="auto")


def test_training_begins_with_the_weights_of_another_run(streets, tmp_path):
    places = {"where": "distribution", "what": "none", "learning_rate": 1e-4}
    first = run(streets, tmp_path / "first", max_iters=3, target_class="car,person", **places)
    begun = {"max_iters": 1, "save_every": 1, "keep_checkpoints": 9, **places}
    run(streets, tmp_path / "second", init=tmp_path / "first", target_class="person,car", **begun)
    run(streets, tmp_path / "one", init=tmp_path / "first", target_class="person", **begun)
    learnt = first["networks"]
    both = load_checkpoint(tmp_path / "second" / "checkpoints" / "state-00000000.pt")["networks"]
    one = load_checkpoint(tmp_path / "one" / "checkpoints" / "state-00000000.pt")["networks"]
    for name, value in learnt.items():
        if ".planes." in name:  # those of each class, wherever it stands in the list
            assert torch.equal(both[name], torch.cat([value[5:], value[:5]]))
            assert torch.equal(one[name], value[5:])
        else:
            assert torch.equal(both[name], value) and torch.equal(one[name], value)
    assert not torch.equal(learnt["place_density.planes.weight"], torch.zeros(10, 16, 1, 1))

    straight = run(streets, tmp_path / "straight", init=tmp_path / "first", **begun | {"max_iters": 2})
    run(streets, tmp_path / "halves", init=tmp_path / "first", **begun)
    halves = run(
        streets, tmp_path / "halves", init=tmp_path / "first", resume="auto", **begun | {"max_iters": 2}
    )
    assert_same(weights_and_optimisers(straight), weights_and_optimisers(halves))


def test_a_class_that_the_other_run_lacks_keeps_its_start(streets, tmp_path):
    places = {"where": "distribution", "what": "none", "max_iters": 1}
    run(streets, tmp_path / "first", target_class="car", **places)
    run(streets, tmp_path / "both", target_class="car,person", init=tmp_path / "first", **places)
    planes = load_checkpoint(tmp_path / "both" / "checkpoints" / "state-00000000.pt")["networks"]
    assert (planes["place_density.planes.weight"][5:] == 0).all()
    assert (planes["place_density.planes.weight"][:5] != 0).any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"where_dim": 8}, "where_dim 16"),
        ({"image_sizey_small": 64, "image_sizex_small": 128}, "small maps of 64x32"),
        ({"where": "published", "what": "published"}, "where distribution, what none"),
        ({"init": "nowhere"}, "no checkpoint here"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(streets, tmp_path, changed, words):
    places = {"where": "distribution", "what": "none", "max_iters": 1}
    run(streets, tmp_path / "first", **places)
    options = places | {"init": tmp_path / "first"} | changed
    assert words in refused(main.main, *flags(streets, tmp_path / "second", **options))
    assert not (tmp_path / "second").exists()


def test_an_option_that_changes_no_network_may_change_on_the_way(streets, tmp_path):
    run(streets, tmp_path / "run", max_iters=1)
    run(streets, tmp_path / "run", max_iters=2, resume="auto", precision="bf16", learning_rate=1e-5)


@pytest.mark.parametrize("name", REMOVED)
def test_an_option_of_earlier_versions_loads_with_its_default_alone(name, streets, tmp_path):
    """In a checkpoint, in options.yaml, and for sampling."""
    state = run(streets, tmp_path / "run", max_iters=1)
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    torch.save(state | {"options": state["options"] | {name: REMOVED[name]}}, path)
    run(streets, tmp_path / "run", max_iters=2, resume="auto")
    load_model(path)
    other = "box" if name == "theta_space" else 7
    torch.save(state | {"options": state["options"] | {name: other}}, path)
    for use in (
        lambda: run(streets, tmp_path / "run", max_iters=3, resume=path),
        lambda: load_model(path),
        lambda: from_dict({name: other}, "options.yaml"),
    ):
        with pytest.raises(InputError, match=f"{name} {other} is no longer there") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_state_of_another_program_or_of_other_networks_is_one_line(streets, tmp_path):
    state = run(streets, tmp_path / "run", max_iters=1)
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    networks = state["networks"]
    for spoilt, said in (
        ({"backbone.weight": torch.ones(3)}, "holds no networks of main.py"),
        (networks | {"d_more.weight": torch.ones(3)}, r"has other networks than this run \(d_more.weight\)"),
        (dict(list(networks.items())[1:]), "has other networks than this run"),
    ):
        torch.save(state | {"networks": spoilt}, path)
        for resume in ("auto", path):
            with pytest.raises(InputError, match=said) as caught:
                run(streets, tmp_path / "run", max_iters=2, resume=resume)
            assert "\n" not in str(caught.value)
