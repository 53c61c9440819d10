"""`InsertInstances`: the same maps as scripts.insert, true masks and boxes, the same in any loader worker."""

import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import wrap_dataset_for_transforms_v2
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.transforms import v2

from augment.placement.filters import Filters
from data.frame import list_frames
from insertion import InsertInstances, class_counts, make_bank, thing_masks
from insertion.transform import draw_name
from streets.scenes import write_streets
from support.errors import InputError
from tests.augment.paint.test_folder import object_of
from tests.insertion.sampled import KINDS, LOOSE, WideCityscapes, arrays, data_set, same, things
from tests.programs import run_ok
from tests.scripts.insert.inserting import insert
from tests.town import write_places_checkpoint

LOOSE_FLAGS = ("--no_gate", "--min_visible", 20, "--may_hide")


def test_maps_and_image_are_those_of_scripts_insert(source, checkpoint, tmp_path):
    named, out, bank = tmp_path / "named", tmp_path / "out", tmp_path / "bank.npz"
    names = []
    for seed, frame in enumerate(list_frames(source, "train")):
        torch.manual_seed(seed)
        torch.rand(())  # the draw against p
        names.append(draw_name())
        for kind, endings in (("gtFine", ("_labelIds", "_instanceIds")), ("leftImg8bit", ("",))):
            (named / kind / "train/ash").mkdir(parents=True, exist_ok=True)
            for ending in endings:
                path = f"{kind}/train/ash/%s_{kind}{ending}.png"
                shutil.copy(source / (path % frame.name), named / (path % names[-1]))
    command = ("--checkpoint", checkpoint, "--db_root", named, "--out", out, *LOOSE_FLAGS)
    run_ok(insert, *command, "--per_image", "1-3", "--seed", 5, "--render", "swap", "--bank", bank)

    transform = InsertInstances(checkpoint, (1, 3), 1.0, bank=bank, filters=LOOSE, seed=5)
    frames = {frame.name: frame for frame in list_frames(out, "train")}
    changed = 0
    for seed, (name, sample) in enumerate(zip(names, data_set(source), strict=True)):
        torch.manual_seed(seed)
        result = transform(*sample)
        labels, ids = frames[name].read_maps()
        image = frames[name].read_image(labels.shape)
        assert all(map(np.array_equal, arrays(result), (image, ids, labels)))
        changed += not same(result, sample)
    assert changed == len(names)


@pytest.mark.parametrize("kinds", [KINDS, ["instance"]])
def test_wrapped_data_sets_get_the_same_objects_as_masks(source, transform, kinds):
    wrapped = wrap_dataset_for_transforms_v2(data_set(source, kinds, kind=WideCityscapes))
    for index, plain in enumerate(data_set(source)):
        torch.manual_seed(index)
        _, ids, labels = arrays(transform(*plain))
        image, target = wrapped[index]
        before = target[0] if isinstance(target, list | tuple) else target
        count = len(before["masks"])
        torch.manual_seed(index)
        _, target = transform(image, target)
        if len(kinds) == 2:
            target, semantic = target
            assert isinstance(semantic, tv_tensors.Mask) and np.array_equal(semantic.squeeze(0), labels)
        values = np.unique(ids).tolist()
        new = [value for value in values if value not in np.unique(arrays(plain)[1])]
        expected = [ids == value for value in [*(v for v in values if v not in new), *new]]
        assert isinstance(target["masks"], tv_tensors.Mask)
        assert target["masks"].shape[1:] == before["masks"].shape[1:]
        assert np.array_equal(target["masks"].reshape(-1, *ids.shape), expected)
        assert target["labels"].tolist()[-len(new) :] == [24] * len(new)
        assert len(new) and len(target["masks"]) <= count + len(new)


def test_objects_of_ones_own_that_no_class_has(source, checkpoint, tmp_path):
    (tmp_path / "cone").mkdir()
    for number in range(6):
        Image.fromarray(object_of(30 + number, 60)).save(tmp_path / f"cone/{number}.png")
    (tmp_path / "objects.yaml").write_text("cone: {places: person, label: dynamic}")
    made = InsertInstances(checkpoint, (2, 3), 1.0, "cutout", cutouts=tmp_path, filters=LOOSE)
    transform = pickle.loads(pickle.dumps(made))
    for index, sample in enumerate(data_set(source)):
        torch.manual_seed(index)
        _, ids, labels = arrays(transform(*sample))
        new = ids != arrays(sample)[1]
        assert new.any() and (ids[new] == 5).all() and (labels[new] == 5).all()
        image, target = things(sample)
        torch.manual_seed(index)
        _, after = transform(image, target)
        cones = after["masks"][after["labels"] == 5]
        assert len(cones) and np.array_equal(cones.any(0), new) and (cones.sum(0) <= 1).all()
        assert torch.equal(after["area"], after["masks"].sum((1, 2)).float())
        # A target whose masks tell the label map, too: what was dynamic before stays a mask of its own.
        values = np.unique(ids)
        target = {"masks": torch.from_numpy(ids == values[:, None, None])}
        target["labels"] = torch.from_numpy(np.where(values < 1000, values, values // 1000).astype(np.int64))
        torch.manual_seed(index + 100)
        _, after = transform(image, target)
        found = after["masks"][after["labels"] == 5]
        assert len(found) > 1 and (found.sum(0) <= 1).all() and not (found[0].numpy() & ~new).any()


def test_a_sample_nothing_fits_into_comes_back_as_it_is(source, checkpoint, bank, transform):
    sample = data_set(source)[0]
    nowhere = InsertInstances(checkpoint, (1, 3), 1.0, bank=bank, filters=Filters(min_area=10**6))
    never = InsertInstances(checkpoint, (1, 3), 0.0, bank=bank, filters=LOOSE)
    for image, target in (nowhere(*sample), never(sample)):
        assert image is sample[0] and target is sample[1]
    assert not same(transform(sample), sample)


def as_it_is(sample):
    return sample


@pytest.mark.slow
def test_loader_workers_follow_torchs_seed_however_they_are_started(source, checkpoint, bank):
    transform = InsertInstances(checkpoint, (1, 2), 0.7, bank=bank, filters=LOOSE)
    transform(*data_set(source)[0])  # loaded here too: workers load for themselves
    cv2.setNumThreads(2)
    large = np.zeros((1000, 1000, 3), np.uint8)  # enough to start threads, which no fork has
    cv2.resize(large, (900, 1100))
    data = data_set(source, transforms=v2.Compose([pickle.loads(pickle.dumps(transform))]))
    runs = []
    for start in ("fork", "spawn", "fork"):
        torch.manual_seed(3 if len(runs) < 2 else 4)
        loader = DataLoader(
            data, None, num_workers=2, collate_fn=as_it_is, multiprocessing_context=start, timeout=300
        )
        runs.append(list(loader))
    assert all(map(same, runs[0], runs[1]))
    assert not all(map(same, runs[0], runs[2]))
    assert not all(map(same, runs[0], data_set(source)))


def test_a_sample_that_lacks_what_is_needed_is_one_line(source, transform, checkpoint, bank, tmp_path):
    image, target = things(data_set(source)[0])
    ids, labels = data_set(source)[0][1]
    without = {key: value for key, value in target.items() if key != "semantic"}
    arrays_instead = {key: np.asarray(target[key]) for key in ("masks", "labels")}
    many = torch.arange(1001)[:, None, None] == torch.arange(128 * 256).reshape(128, 256)
    people = np.where(many.any(0), 24, labels).astype(np.uint8)
    wrong_labels = np.where(np.asarray(labels) == 7, 40, labels).astype(np.uint8)
    for bad, reason in (
        ((image, without), "no label map of the scene"),
        ((image, target | {"labels": target["labels"] - 23}), "disagree"),
        ((image, [labels, ids]), "label map"),
        ((image, {"boxes": target["boxes"]}), '"masks"'),
        ((image, ids), "the target must be"),
        ((image, None), "the target must be .* this is NoneType"),
        ((image, (ids, labels, None)), "the target must be .* this is tuple of 3"),
        ((image, [ids, None]), "label map is NoneType"),
        ((image, [np.asarray(ids).tolist(), labels]), "instance map is list"),
        ((image, ["ids.png", labels]), "instance map is str"),
        ((image, [torch.ones(128, 256, requires_grad=True), labels]), "the target must be"),
        ((image, [ids, wrong_labels]), r"\[40\].*void=\(40,\)"),
        ((image, target | arrays_instead), '"masks" must be a tensor on the CPU, not ndarray'),
        ((image, target | {"labels": target["labels"].tolist()}), '"labels" must be a tensor'),
        ((image, target | {"labels": target["labels"].float()}), "no label ids"),
        ((image, target | {"labels": target["labels"] * 0 + 40}), r"disagree|\[40\]"),
        ((image, target | {"boxes": target["boxes"][1:]}), "boxes"),
        ((image, target | {"iscrowd": [0]}), '"iscrowd" must hold a number for each'),
        (
            (image, {"masks": many, "labels": torch.full((1001,), 24), "semantic": people}),
            "more than 1000 masks of a class .* mark some as crowd",
        ),
        ((image,), "takes"),
        ((image, [ids, labels], None), "takes"),
        ((image.convert("L"), [ids, labels]), "RGB"),
        ((v2.functional.pil_to_tensor(image).float(), [ids, labels]), "uint8"),
        ((image.resize((64, 32)), [ids, labels]), "size"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            transform(*bad)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty.npz").write_bytes(b"")
    for settings in (
        {"bank": tmp_path / "empty.npz"},
        {"bank": None},
        {"render": "oil"},
        {"p": 2},
        {"attempts": 0},
    ):
        with pytest.raises(InputError):
            InsertInstances(checkpoint, **({"bank": bank} | settings))
    with pytest.raises(InputError, match="no checkpoint"):
        InsertInstances(tmp_path, bank=bank)


def test_void_is_refused_or_kept_as_it_is_where_nothing_is_inserted(source, transform, checkpoint, bank):
    image, (ids, labels) = data_set(source)[1]
    ids, labels = np.array(ids), np.array(labels)
    sky = labels == 23
    ids[sky], labels[sky] = 255, 255
    masks, classes = thing_masks(ids)
    as_masks = {"masks": masks, "labels": classes, "semantic": labels}
    covering = {
        "masks": torch.from_numpy(ids == np.unique(ids)[:, None, None]),
        "labels": torch.tensor(
            [value if value < 1000 else value // 1000 for value in np.unique(ids).tolist()]
        ),
    }
    with_void = InsertInstances(checkpoint, (1, 3), 1.0, bank=bank, filters=LOOSE, void=[255])
    for target in ([ids, labels], as_masks, covering):
        with pytest.raises(InputError, match=r"\[255\].*InsertInstances\(\.\.\., void=\(255,\)\)"):
            transform(image, target)
        torch.manual_seed(1)
        _, after = with_void(image, target)
        if isinstance(after, list):
            assert not np.array_equal(after[0], ids) and all((one[sky] == 255).all() for one in after)
        else:
            assert len(after["labels"]) != len(target["labels"])
    with pytest.raises(InputError, match="void"):
        InsertInstances(checkpoint, bank=bank, void=[7])


@pytest.mark.slow
def test_the_recipe_for_torchvisions_reference_script_trains(source, checkpoint, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/insertion.md").read_text()
    (recipe,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "get_dataset" in block)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/quickstart").symlink_to(checkpoint.parent)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(recipe.replace("whereandwhat.", ""), names)  # as it is called once installed
    data = names["get_dataset"](str(source), "train")
    assert isinstance(data.transforms.transforms[0], InsertInstances)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=11,
        min_size=64,
        max_size=128,
        box_detections_per_img=4,
    )
    samples = [data[index] for index in range(2)]
    losses = model([image for image, _ in samples], [target for _, target in samples])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_model_of_several_classes_inserts_those_that_are_asked_for(tmp_path):
    source = tmp_path / "streets"
    write_streets(source, 3, 0, (512, 256), seed=0)
    bank = make_bank(source, "train", tmp_path / "bank.npz")
    places = write_places_checkpoint(tmp_path / "places", "person,car")

    def new_labels(classes) -> set[int]:
        transform = InsertInstances(
            places, (3, 3), 1.0, "cutout", bank, classes=classes, attempts=40, filters=LOOSE
        )
        found = set()
        for index, sample in enumerate(data_set(source)):
            torch.manual_seed(index)
            before, after = arrays(sample)[1], arrays(transform(*sample))[1]
            found |= set((np.setdiff1d(after, before) // 1000).tolist())
        return found

    assert new_labels(None) == {24, 26}
    assert new_labels(["car"]) == {26}
    assert new_labels({"car": 0, "person": 2}) == {24}
    assert class_counts(source, "train")["person"] > 0
    assert new_labels({"rider": 9, "person": 2}) == {24}
    with pytest.raises(InputError, match="no checkpoint for rider, only for person, car"):
        new_labels(["rider", "person"])
    with pytest.raises(InputError, match="no checkpoint for rider, only for person, car"):
        new_labels({"rider": 9})
    with pytest.raises(InputError, match="none is drawn"):
        new_labels({"car": 0})
    with pytest.raises(InputError, match="give --render cutout"):
        InsertInstances(places, (1, 1), 1.0, "none")(*data_set(source)[0])
