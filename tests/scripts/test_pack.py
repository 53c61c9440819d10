"""Packed models: the same samples from a small part of the file, and clear words for what isn't one."""

import dataclasses

import pytest
import torch

from data.labels import TARGET_CLASSES
from loader.noise import draw_noise
from main import state_of
from model import SAMPLING_NETWORKS, WhereWhat, load_model, sample
from options import Options
from scripts import pack
from support.checkpoints import builtin_names, find_checkpoint, load_checkpoint, save_checkpoint, save_packed
from support.errors import InputError
from tests.programs import refused, run_ok
from tests.test_model import TINY, make_batch
from training import Optimisers

DENSITY = dataclasses.replace(TINY, where="distribution")


@pytest.fixture(params=[TINY, DENSITY], ids=["published", "distribution"])
def run(request, tmp_path):
    """A checkpoint of a model just started, and its packed file."""
    torch.manual_seed(0)
    model = WhereWhat(request.param)
    state = {
        "iteration": 3,
        "samples_seen": 3,
        "options": dataclasses.asdict(request.param),
        "networks": model.networks.state_dict(),
        "optimisers": Optimisers(model).state_dict(),
        "window": {},
        "averages": {
            name: 2 * value
            for name, value in model.networks["generator"].state_dict(prefix="generator.").items()
        },
    }
    path = save_checkpoint(tmp_path / "checkpoints", state, 1)
    save_packed(tmp_path / "model.safetensors", load_checkpoint(path), SAMPLING_NETWORKS)
    return path, tmp_path / "model.safetensors"


def test_a_packed_model_samples_the_same(run):
    whole, packed = map(load_model, run)
    noise, scene = draw_noise(whole.options, range(2)), make_batch().cond
    first, second = (sample(model, scene, noise.z_spatial, noise.z_appr) for model in (whole, packed))
    torch.testing.assert_close(second.theta, first.theta, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(second.compact, first.compact, rtol=0, atol=0.02)
    assert not torch.equal(first.compact, first.compact.mean().expand_as(first.compact))
    assert packed.options == whole.options
    assert "what_reconstructor" not in packed.networks and "d_what" not in packed.networks
    assert run[1].stat().st_size < run[0].stat().st_size / 2


def test_packing_twice_gives_the_same_bytes(run, tmp_path):
    save_packed(tmp_path / "again.safetensors", load_checkpoint(run[0]), SAMPLING_NETWORKS)
    assert (tmp_path / "again.safetensors").read_bytes() == run[1].read_bytes()


def test_training_does_not_go_on_from_a_packed_model(run, tmp_path):
    change = {"resume": str(run[1]), "run_dir": str(tmp_path / "none")}
    with pytest.raises(InputError, match="only what samples"):
        state_of(dataclasses.replace(load_model(run[1]).options, **change))


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_a_damaged_file_is_named(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable packed model"):
        load_model(path)


def test_what_draws_no_objects_is_refused(run, tmp_path):
    state = load_checkpoint(run[0]) | {"networks": {"backbone.weight": torch.zeros(1)}}
    other = save_checkpoint(tmp_path / "segmenter", state, 1)
    said = refused(pack.main, "--checkpoint", other, "--out", tmp_path / "other.safetensors")
    assert "draws no objects" in said and not (tmp_path / "other.safetensors").exists()


def test_the_command_line(run, tmp_path):
    flags = ("--checkpoint", run[0], "--out", tmp_path / "new.safetensors")
    assert "new.safetensors" in run_ok(pack.main, *flags)
    assert "--overwrite" in refused(pack.main, *flags)
    (tmp_path / "folder.safetensors").mkdir()
    for out in ("folder.safetensors", "new.safetensors/below.safetensors"):
        said = refused(pack.main, "--checkpoint", run[0], "--out", tmp_path / out, "--overwrite")
        assert "name another path" in said


def test_an_unknown_builtin_names_the_others():
    with pytest.raises(InputError, match="builtin:person"):
        find_checkpoint("builtin:unicorn")


@pytest.mark.parametrize("name", ["builtin:person", "builtin:car"])
def test_the_builtin_models_are_those_of_the_demo_preset(name):
    model = load_model(name)
    assert name in builtin_names() and model.target.name == name.removeprefix("builtin:")
    assert isinstance(model.options, Options) and model.options.where == "distribution"


def test_the_builtin_street_has_places_of_all_classes():
    model = load_model("builtin:street")
    assert [target.name for target in model.targets] == list(TARGET_CLASSES)
    assert model.where.has_density and not model.what.draws_shapes
    weights = [find_checkpoint(name).stat().st_size for name in builtin_names()]
    assert find_checkpoint("builtin:street").stat().st_size < 1.5e6 and sum(weights) < 8e6
