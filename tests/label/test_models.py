"""The three heads: saved to disk, loaded, with a map that is known; and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from label.models import (
    DEFAULT_MODEL,
    DEFAULT_REVISION,
    PANOPTIC,
    PIECES,
    Network,
    PretrainedModel,
    _loaded,
)
from support.errors import InputError
from tests.label.tiny_models import HEADS, NAMES, SIDE, build, save, says_everywhere

pytest.importorskip("transformers")
LABELS = {name: name for name in NAMES}
NONE: frozenset[int] = frozenset()


def noise(height: int = 100, width: int = 130) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module", params=HEADS)
def head(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(head, tmp_path_factory):
    """A random model of a head."""
    return save(head, tmp_path_factory.mktemp("random") / head)


def test_a_random_model_of_each_head_labels_every_pixel_the_same_way_twice(head, folder):
    model = PretrainedModel(str(folder), device="cpu")
    about = model.about()
    assert about.names == dict(enumerate(NAMES)) and about.told_apart == (
        PIECES if head == "segformer" else PANOPTIC
    )
    assert about.facts["head"] == head and len(about.facts["model"]) == 64
    segmenter = model.load(LABELS)
    one, other = segmenter(noise(), NONE), segmenter(noise(), NONE)
    assert one.keys.shape == (100, 130) and np.array_equal(one.keys, other.keys)
    assert one.of_key == other.of_key and {number for number, _ in one.of_key.values()} <= set(about.names)


@pytest.mark.parametrize("semantic", (False, True))
@pytest.mark.parametrize("class_name", ("road", "car"))
def test_a_head_set_by_hand_says_what_it_was_set_to(head, semantic, class_name, tmp_path):
    number = NAMES.index(class_name)
    save(head, tmp_path / "model", says_everywhere(build(head), number))
    model = PretrainedModel(str(tmp_path / "model"), device="cpu", semantic=semantic)
    found = model.load(LABELS)(noise(), NONE)
    (key,) = np.unique(found.keys).tolist()
    single = class_name == "car" or (head != "segformer" and not semantic)
    assert found.of_key[key] == (number, single)
    if head != "segformer" and not semantic:
        without = model.load(LABELS)(noise(), frozenset({number}))
        assert not without.keys.any() and without.of_key == {}


class Says(torch.nn.Module):
    """A network whose output is given."""

    def __init__(self, **outputs):
        super().__init__()
        self.outputs, self.seen = outputs, None

    def forward(self, **inputs):
        self.seen = inputs
        return type("Output", (dict,), {"__getattr__": dict.__getitem__})(self.outputs)


@pytest.mark.parametrize("name", HEADS)
def test_logits_set_by_hand_give_the_map_that_they_mean(name, tmp_path):
    """Road, a car, another car, side by side in a picture of 64x80 pixels."""
    loaded = _loaded("x", save(name, tmp_path / name), name, "cpu")
    prepare, width = loaded.prepare, 20  # of the network's map
    if name == "mask2former":  # as it is with models that want one size: black beside the picture
        import transformers

        padded, width = {"height": 64, "width": 96}, 24
        prepare = transformers.Mask2FormerImageProcessor(size=SIDE, size_divisor=16, pad_size=padded)
    road, car = NAMES.index("road"), NAMES.index("car")
    if name == "segformer":
        logits = torch.full((19, 16, width), -9.0)
        logits[road, :, :10], logits[car, :, 10:] = 9.0, 9.0
        says = Says(logits=logits[None])
    else:
        masks = torch.full((3, 16, width), -9.0)
        masks[0, :, :10], masks[1, :, 10:15], masks[2, :, 15:] = 9.0, 9.0, 9.0
        scores = torch.nn.functional.one_hot(torch.tensor([road, car, car]), 20) * 20.0
        says = Says(class_queries_logits=scores[None], masks_queries_logits=masks[None])
    network = Network(name, says, prepare, loaded.task, "cpu")
    found = network.segments(noise(64, 80), NONE, things=frozenset({car}), pieces=name == "segformer")
    columns = [found.of_key[key] for key in found.keys[0].tolist()]
    assert (found.keys == found.keys[0]).all()
    assert columns == [(road, name != "segformer")] * 40 + [(car, True)] * 40
    assert len(np.unique(found.keys)) == (2 if name == "segformer" else 3)
    if name == "segformer":
        return
    assert (found.keys[0] == found.keys[0, 59]).sum() == 20
    assert says.seen["pixel_values"].shape == (1, 3, 64, 4 * width)
    if name == "oneformer":
        assert says.seen["task_inputs"].shape == (1, 77) and says.seen["task_inputs"].max() > 1


# ---- what is refused ----------------------------------------------------------------------------


def refusal(*arguments, **settings) -> str:
    """The line with which a model is refused."""
    with pytest.raises(InputError) as caught:
        model = PretrainedModel(*arguments, device="cpu", **settings)
        model.load(dict.fromkeys(model.about().names.values(), "road"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_network_there_are_two_ways(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    line = refusal(DEFAULT_MODEL, offline=True)
    assert f"hf download {DEFAULT_MODEL} --revision {DEFAULT_REVISION}" in line
    assert "or give a model's folder as --model" in line
    assert "--revision main" in refusal("someone/else", offline=True)


def test_a_model_that_is_none_of_the_three_heads_is_refused(tmp_path, folder):
    assert "no such folder" in refusal(str(tmp_path / "gone"))
    assert "no such folder" in refusal("gone")
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refusal(str(tmp_path / "empty"))
    config = json.loads((folder / "config.json").read_text())
    changes = (
        {"model_type": "bert", "architectures": ["BertModel"]},
        {"architectures": ["SegformerForImageClassification"]},  # a backbone alone
        {"architectures": None},
    )
    for number, change in enumerate(changes):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/config.json").write_text(json.dumps(config | change))
        assert "take a Mask2FormerForUniversalSegmentation, " in refusal(str(tmp_path / f"{number}"))
    (tmp_path / "3").mkdir()
    (tmp_path / "3/config.json").write_text(json.dumps(config | {"id2label": None}))
    assert "names no classes" in refusal(str(tmp_path / "3"))


def test_weights_that_are_damaged_or_not_all_there_are_refused(tmp_path, folder, head):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "lacking")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in sorted(weights) if name.endswith("bias")))
    save_file(weights, tmp_path / "lacking/model.safetensors", {"format": "pt"})
    assert "its weights lack " in refusal(str(tmp_path / "lacking"))
    shutil.copytree(folder, tmp_path / "damaged")
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "damaged/model.safetensors").write_bytes(content[:-100])
    assert "can't be loaded" in refusal(str(tmp_path / "damaged"))
    (tmp_path / "damaged/model.safetensors").unlink()
    assert "can't be loaded" in refusal(str(tmp_path / "damaged"))
    shutil.copytree(folder, tmp_path / "unprepared")
    (tmp_path / "unprepared/preprocessor_config.json").unlink()
    assert "can't be loaded" in refusal(str(tmp_path / "unprepared"))
