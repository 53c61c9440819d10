"""The weight-free back ends."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment.options import BACKENDS, options_of
from augment.paint.backends import CannotFillError, Request, make_backend, prepare_backend, settings_of
from augment.paint.backends.recolor import COLOURS
from augment.paint.backends.swap import fit_into
from augment.paint.blend import relit, to_lab
from augment.paint.registration import continue_texture, displacement
from data.instances import bounding_box
from support.errors import InputError
from tests.mini_frames import CARAVAN_ID, MOTORCYCLE_ID, TRAIN, mini_frame


@pytest.fixture(scope="module")
def swap(tree, tmp_path_factory):
    return make_backend("swap", {"bank": str(tmp_path_factory.mktemp("bank") / "b.npz")}, tree, "train")


def request(
    tree: Path, instance_id: int, name: str = TRAIN[0], prompt: str = "", count: int = 2, **changes
) -> Request:
    """A crop around an instance, with a margin of 20 pixels."""
    frame = mini_frame(tree, name)
    rgb, ids = frame.read_image(), frame.read_instance_ids()
    mask = ids == instance_id
    x0, y0, x1, y1 = bounding_box(mask)
    window = np.s_[max(y0 - 20, 0) : y1 + 21, max(x0 - 20, 0) : x1 + 21]
    names = {24: "person", 26: "car", 29: "caravan", 32: "motorcycle", 33: "bicycle"}
    values = {
        "rgb": rgb[window].copy(),
        "mask": mask[window].copy(),
        "class_name": names[instance_id // 1000],
        "source": f"{name}/{instance_id}",
        "prompts": (prompt,) * count,
        "negative": "",
        "seed": 3,
    }
    return Request(**(values | changes))


# ---- what all of them promise -------------------------------------------------------------------


@pytest.fixture(params=("swap", "recolor", "cv_inpaint"))
def backend(request, tree, swap):
    return swap if request.param == "swap" else make_backend(request.param, {}, tree, "train")


@pytest.mark.parametrize("instance_id", (26000, 24000, 24001, 33000, MOTORCYCLE_ID, CARAVAN_ID))
def test_only_masked_pixels_change_and_they_do(backend, tree, instance_id):
    crop_request = request(tree, instance_id)
    assert crop_request.mask.any()
    images = backend.fill(crop_request)
    assert len(images) == 2
    for image in images:
        assert image.dtype == np.uint8 and image.shape == crop_request.rgb.shape
        assert np.array_equal(image[~crop_request.mask], crop_request.rgb[~crop_request.mask])
        assert (image[crop_request.mask] != crop_request.rgb[crop_request.mask]).any(1).mean() > 0.6
    assert not np.array_equal(*images)


def test_samples_follow_from_the_seed_alone(backend, tree):
    crop_request = request(tree, 26000, count=4)
    before = crop_request.rgb.copy()
    four = backend.fill(crop_request)
    again = backend.fill(request(tree, 26000, count=2))
    assert all(np.array_equal(one, other) for one, other in zip(four, again, strict=False))
    others = [backend.fill(request(tree, 26000, count=1, seed=seed))[0] for seed in range(8)]
    assert any(not np.array_equal(one, four[0]) for one in others)
    assert np.array_equal(crop_request.rgb, before)


def test_masks_of_any_place_and_size(backend):
    """One pixel, a line, a mask over the whole crop, and masks at each border."""
    rng = np.random.default_rng(1)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (40, 50, 3), np.uint8), (9, 9), 0)
    inside = np.s_[20:21, 20:21], np.s_[5:6, :], np.s_[:, :]
    for window in (*inside, np.s_[:9, :9], np.s_[31:, 40:], np.s_[:, 12:14]):
        mask = np.zeros((40, 50), bool)
        mask[window] = True
        image = backend.fill(Request(rgb, mask, "car", "town/26000", ("",), "", 1))[0]
        assert np.array_equal(image[~mask], rgb[~mask])


# ---- swap ---------------------------------------------------------------------------------------


def test_swap_never_shows_the_instance_itself(swap, tree):
    """With the object's own pixels turned into pure green there, no sample shows green."""
    for name in TRAIN:
        crop_request = request(tree, 26000, name)
        keys = swap.bank.shelf("car").keys
        light = np.zeros(3)
        chosen = swap.choose(crop_request, crop_request.mask[20:-20, 20:-20], (20, 20), light)
        own = np.flatnonzero(keys == f"{name}/26000")
        assert len(own) == 1 and len(chosen) > 1
        assert swap.bank.shelf("car").rows[own[0]] not in [one.row for one in chosen]
    new = request(tree, 26000, source=f"{TRAIN[0]}/26007")
    rows = [one.row for one in swap.choose(new, new.mask[20:-20, 20:-20], (20, 20), None)]
    assert len(rows) == len(keys)  # a new object may look like any


def test_swap_deals_its_instances_out_to_the_objects_of_an_image(tree, tmp_path):
    settings = {"bank": str(tmp_path / "b.npz"), "max_enlargement": 100.0}  # that no instance is out of reach
    swap = make_backend("swap", settings, tree, "train")

    def shown(**deal) -> int:
        crop_request = request(tree, 26000, source=f"{TRAIN[0]}/26007", **deal)
        return swap.choose(crop_request, crop_request.mask[20:-20, 20:-20], (20, 20), None)[0].row

    images = [[shown(deal=(seed, number)) for number in range(1, 5)] for seed in range(8)]
    assert all(len(set(rows)) == 4 for rows in images)
    assert len({rows[0] for rows in images}) > 2  # what fits best is not shown in every image


def test_swap_covers_the_whole_silhouette(swap, tree):
    """Neither the old object nor the source's background: both are marked with a colour that must vanish."""
    green = np.array([0, 255, 0])
    target = np.zeros((60, 90), bool)
    cv2.ellipse(canvas := np.uint8(target), (45, 30), (44, 29), 0, 0, 360, 1, -1)
    target = canvas > 0
    source = np.full((80, 120, 3), green, np.uint8)
    mask = np.zeros((80, 120), bool)
    mask[10:, 20:100] = True
    mask[:30, 50:70] = True
    source[mask] = (180, 60, 120)
    fitted = fit_into(source, mask, target).astype(int)
    assert np.abs(fitted[target] - (180, 60, 120)).max() < 40  # green would be 195 away

    crop_request = request(tree, 26000)
    crop_request.rgb[crop_request.mask] = green
    for image in swap.fill(crop_request):
        distance = np.abs(image[crop_request.mask].astype(int) - green).max(1)
        assert distance.min() > 60


def test_swap_prefers_the_alike(tmp_path, tree):
    """Among a wide and a tall source the target's shape decides; too small a source comes last."""
    swap = make_backend("swap", {"bank": str(tmp_path / "b.npz"), "choices": 1}, tree, "train")
    big, small = request(tree, 26000), request(tree, 26001)
    sizes = swap.bank.table.size
    for crop_request in (big, small):
        x, y, w, h = cv2.boundingRect(np.uint8(crop_request.mask))
        choice = swap.choose(crop_request, crop_request.mask[y : y + h, x : x + w], (x, y), None)[0]
        width = sizes[choice.row, 0] * (choice.part[2] - choice.part[0])
        assert width >= 0.6 * w
    # Twice as large as any source: still filled, by the least enlargement there is.
    mask = cv2.resize(np.uint8(big.mask), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST) > 0
    huge = replace(big, rgb=cv2.resize(big.rgb, None, fx=4, fy=4), mask=mask)
    assert len(swap.fill(huge)) == big.count


def test_swap_has_nothing_for_a_class_without_others(swap, tree):
    crop_request = request(tree, 26000, class_name="train")
    with pytest.raises(CannotFillError, match="no other train"):
        swap.fill(crop_request)


def test_swap_avoids_showing_the_same_instance_twice_in_a_frame(tree, tmp_path):
    """Copies of one frame's cars are in the bank, but others that fit as well are preferred."""
    swap = make_backend("swap", {"bank": str(tmp_path / "b.npz"), "choices": len(TRAIN)}, tree, "train")
    for name in TRAIN:
        crop_request = request(tree, 26000, name, source=f"{name}/26007")
        choices = swap.choose(crop_request, crop_request.mask[20:-20, 20:-20], (20, 20), None)
        chosen = [one.row for one in choices]
        big = [row for row in chosen if swap.bank.table.instance_id[row] == 26000]
        assert len(big) == len(TRAIN) and swap.bank.table.frame[big[0]] != name


def test_light_is_matched_and_black_stays_black():
    ring, light = np.float32([60, 0, 0]), np.float32([30, 0, 0])
    image = np.uint8([[[0, 0, 0], [200, 200, 200]]])
    dimmed = relit(image, ring, light)
    assert dimmed[0, 0].max() <= 2 and 100 < dimmed[0, 1].max() < 170
    assert np.array_equal(relit(image, ring, None), image)


def test_the_displacement_brings_one_silhouette_onto_the_other():
    source, target = np.zeros((100, 140), np.uint8), np.zeros((100, 140), np.uint8)
    cv2.rectangle(source, (10, 10), (129, 89), 1, -1)
    cv2.ellipse(target, (70, 50), (65, 45), 0, 0, 360, 1, -1)
    u = displacement(source > 0, target > 0)
    rows, columns = np.mgrid[:100, :140].astype(np.float32)
    moved = cv2.remap(source, columns + u[..., 0], rows + u[..., 1], cv2.INTER_NEAREST)

    def overlap(one: np.ndarray) -> float:
        return (one & target).sum() / (one | target).sum()

    assert overlap(moved) > overlap(source) + 0.05 and overlap(moved) > 0.93
    assert np.abs(u).max() < 0.1 * 140
    assert (
        displacement(target > 0, target > 0) is None and displacement(source[:5] > 0, target[:5] > 0) is None
    )


def test_texture_is_continued_not_smeared():
    """Stripes on the left half go on in the right half with the same contrast near the seam."""
    stripes = np.repeat(np.uint8(np.arange(80) // 4 % 2 * 200)[None, :, None], 40, 0).repeat(3, 2)
    known = np.zeros((40, 80), bool)
    known[:, :40] = True
    wanted = stripes.copy()
    wanted[:, 40:] = 0
    result = continue_texture(wanted, known)
    assert np.array_equal(result[:, :40], stripes[:, :40])
    assert np.ptp(result[20, 40:50, 0].astype(int)) > 100


# ---- recolor and cv_inpaint ---------------------------------------------------------------------


@pytest.mark.parametrize("word", ("red", "blue", "yellow"))
def test_recolor_obeys_the_prompt_and_keeps_shading(word):
    """A car of grey paint, lighter at the top, with a red lamp and a black tyre."""
    rgb = np.full((80, 100, 3), 120, np.uint8)
    mask = np.zeros((80, 100), bool)
    mask[20:60, 20:80] = True
    rgb[20:60, 20:80] = np.linspace(170, 90, 40)[:, None, None]
    rgb[50:60, 22:32] = 15
    rgb[30:36, 20:28] = (200, 20, 20)
    crop_request = Request(rgb, mask, "car", "town/26000", (f"a {word.upper()} car at night",), "", 1)
    image = make_backend("recolor", {}, Path("."), "train").fill(crop_request)[0]
    before, after = to_lab(rgb), to_lab(image)
    middle, wanted = np.median(after[mask], axis=0)[1:], np.array(COLOURS[word][1:])
    assert middle @ wanted > 0.9 * np.linalg.norm(middle) * np.linalg.norm(wanted)
    assert np.linalg.norm(middle) > 0.5 * np.linalg.norm(wanted)
    assert np.corrcoef(before[20:60, 50, 0], after[20:60, 50, 0])[0, 1] > 0.95
    assert np.abs(after - before)[50:60, 22:32].max() < 12 and np.abs(after - before)[30:36, 20:28].max() < 3


def test_recolor_without_a_colour_word_draws_colours(tree):
    images = make_backend("recolor", {}, tree, "train").fill(request(tree, 26000, count=6))
    mask = request(tree, 26000).mask
    middles = np.array([np.median(to_lab(image)[mask], axis=0) for image in images])
    assert np.linalg.norm(middles - middles.mean(0), axis=1).max() > 15


def test_each_sample_has_its_own_prompt(tree):
    crop_request = request(tree, 26000, prompts=("a red car", "a blue car", "a red car"))
    red, blue, other_red = make_backend("recolor", {}, tree, "train").fill(crop_request)
    redness = [float(np.median(to_lab(one)[crop_request.mask], axis=0)[1]) for one in (red, blue, other_red)]
    assert redness[0] > redness[1] + 15 and redness[2] > redness[1] + 15
    assert not np.array_equal(red, other_red)


def test_recolor_leaves_heads_alone(tree):
    crop_request = request(tree, 24000, prompt="a woman in green")
    image = make_backend("recolor", {}, tree, "train").fill(crop_request)[0]
    x, y, w, h = cv2.boundingRect(np.uint8(crop_request.mask))
    head = np.zeros_like(crop_request.mask)
    head[: y + int(0.12 * h)] = crop_request.mask[: y + int(0.12 * h)]
    body = crop_request.mask & ~head
    body[: y + int(0.3 * h)] = False
    change = np.abs(image.astype(int) - crop_request.rgb).max(2)
    assert change[head].max() <= 1 and change[body].mean() > 8


def test_cv_inpaint_removes_the_object():
    """On a ground of one colour nothing is left of it, however large."""
    for side in (40, 400):
        rgb = np.full((side, side, 3), (90, 100, 110), np.uint8)
        mask = np.zeros((side, side), bool)
        mask[side // 4 : side // 2, side // 4 : side // 2] = True
        rgb[mask] = (255, 0, 0)
        for method in ("telea", "ns"):
            crop_request = Request(rgb, mask, "car", "town/26000", ("",), "", 1)
            image = make_backend("cv_inpaint", {"method": method}, Path("."), "train").fill(crop_request)[0]
            assert np.abs(image.astype(int) - (90, 100, 110)).max() <= 6  # red would be 165 away


# ---- making them --------------------------------------------------------------------------------


def test_bad_names_and_settings_are_one_line(tree):
    for name, settings, wanted in (
        ("gligen", {}, "choose swap, recolor"),
        ("recolor", {"hue": 3}, "unknown setting 'hue'; it has strength"),
        ("recolor", {"strength": "much"}, "strength must be of type float"),
        ("recolor", {"strength": 2}, "strength must be above 0 and at most 1, not 2.0"),
        ("cv_inpaint", {"method": "magic"}, "choose telea, ns"),
        ("swap", {"choices": 0}, "choices must be at least 1"),
        ("swap", {"choices": True}, "choices must be of type int"),
    ):
        for make in (make_backend, prepare_backend):
            with pytest.raises(InputError, match=wanted):
                make(name, settings, tree, "train")
        with pytest.raises(InputError, match=wanted) as error:
            settings_of(name, settings)
        assert "\n" not in str(error.value)
    for name in BACKENDS:
        settings_of(name, {})  # builds and loads nothing


def test_preparing_builds_the_bank_once(tree, tmp_path):
    settings = {"bank": str(tmp_path / "bank.npz")}
    with ProcessPoolExecutor(2) as pool:
        prepare_backend("swap", settings, tree, "train", pool.map)
    written = (tmp_path / "bank.npz").stat().st_mtime_ns
    backend = make_backend("swap", settings, tree, "train")
    assert (tmp_path / "bank.npz").stat().st_mtime_ns == written
    assert backend.name == "swap" and backend.version and backend.details["params"]["choices"] == 8
    for name in BACKENDS[1:]:
        prepare_backend(name, {}, tree, "train")  # nothing to do, and nothing is loaded


def test_a_back_end_from_outside():
    name = "tests.own_backend:Grey"
    backend = make_backend(name, {"level": 7}, Path("nowhere"), "train")
    rgb, mask = np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=bool)
    (image,) = backend.fill(Request(rgb, mask, "car", "a/1", ("a car",), "", 0))
    assert (image[mask] == 7).all() and not image[~mask].any()
    with pytest.raises(InputError, match="at most 255"):
        settings_of(name, {"level": 256})
    for bad, reason in (
        ("tests.nowhere:Grey", "No module named"),
        ("tests.own_backend:Blue", "Blue"),
        ("tests.own_backend:NotOne", "no defaults and no fill"),
    ):
        with pytest.raises(InputError, match=reason):
            settings_of(bad, {})
    assert options_of({"backend": name}).backend == name
    with pytest.raises(InputError, match="or module:Class"):
        options_of({"backend": "magic"})
