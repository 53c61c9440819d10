"""Scores: each metric against a plain computation, identical images, and what needs weights."""

import json
import math
import sys

import cv2
import numpy as np
import pytest

from augment.repaint import score_networks
from augment.repaint.score import Mean, object_image, outside_ssim, psnr, ssim_map
from augment.repaint.score_networks import INSTALL, Networks, Weights
from scripts.synth import run, score
from support.errors import InputError
from tests.programs import refused, run_ok


@pytest.fixture
def grey_pair():
    rng = np.random.default_rng(1)
    one = rng.integers(0, 256, (20, 31), np.uint8)
    return one, np.clip(one + rng.normal(0, 20, one.shape), 0, 255).astype(np.uint8)


# ---- metrics ------------------------------------------------------------------------------------


def test_psnr_is_what_its_definition_says():
    one, other = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 110, np.uint8)
    assert psnr(one, other) == psnr(other, one) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(one, one) == math.inf
    assert math.isnan(psnr(one[:0], other[:0]))


def test_ssim_is_that_of_each_window(grey_pair):
    one, other = grey_pair
    found = ssim_map(one, other)
    assert found.shape == (14, 25)
    for y, x in ((0, 0), (5, 17), (13, 24)):
        a, b = (image[y : y + 7, x : x + 7].astype(float).ravel() for image in (one, other))
        c1, c2 = 2.55**2, 7.65**2
        (var_a, cov), (_, var_b) = np.cov(a, b)
        expected = (2 * a.mean() * b.mean() + c1) * (2 * cov + c2)
        expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (var_a + var_b + c2)
        assert found[y, x] == pytest.approx(expected)
    assert np.allclose(ssim_map(one, one), 1)
    assert ssim_map(one[:6], other[:6]).size == 0


def test_ssim_is_scikit_images_default(grey_pair):
    metrics = pytest.importorskip("skimage.metrics")
    one, other = grey_pair
    assert ssim_map(one, other).mean() == pytest.approx(metrics.structural_similarity(one, other))


def test_outside_ssim_does_not_see_the_mask(grey_pair):
    one, _ = grey_pair
    mask = np.zeros(one.shape, bool)
    mask[8:12, 12:20] = True
    other = one.copy()
    other[mask] = 255 - other[mask]
    assert ssim_map(one, other).mean() < 0.95
    assert outside_ssim(one, other, mask) == pytest.approx(1)
    assert math.isnan(outside_ssim(one, other, np.ones_like(mask)))


def test_means_say_how_many_are_identical():
    mean = Mean()
    for value in (30.0, 40.0):
        mean.add(value)
    assert mean.to_json()["mean"] == 35 and str(mean) == "35"
    mean.add(math.inf)
    mean.add(math.nan)
    expected = {"mean": "inf", "finite_mean": 35, "samples": 3, "identical": 1, "undefined": 1}
    assert mean.to_json() == expected
    assert str(mean) == "inf (1 of 3 identical; the others 35)"
    assert str(Mean()) == "no sample" and Mean().to_json()["mean"] is None


def test_networks_see_the_masked_object_only():
    rgb = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:45] = True
    seen = object_image(rgb, mask, [5, 10, 45, 20])
    assert seen.shape == (299, 299, 3) and seen.dtype == np.uint8
    assert (seen[140:160] == 200).all()
    assert np.abs(np.concatenate([seen[:90], seen[-90:]]).astype(int) - 128).max() <= 2  # Lanczos rings


# ---- the program --------------------------------------------------------------------------------


def test_score_of_a_run(mini, tmp_path):
    source, out = mini, tmp_path / "out"
    flags = ("--samples", 1, "--limit", 2, "--k", 2, "--num_workers", 1)
    assert "begin with" in refused(score.main, "--out", tmp_path)
    run_ok(run.main, "--db_root", source, "--out", out, *flags)
    printed = run_ok(score.main, "--out", out, "--num_workers", 1)
    content = json.loads((out / "score.json").read_text())
    numbers = content["numbers"]["all"]
    assert content["samples"] == 4
    assert numbers["outside_psnr"] == {
        "mean": "inf",
        "finite_mean": None,
        "samples": 4,
        "identical": 4,
        "undefined": 0,
    }
    assert "inf (4 of 4 identical)" in printed
    assert numbers["outside_ssim"]["mean"] == pytest.approx(1)
    assert all(value.startswith("unavailable: give --") for value in content["networks"].values())
    assert set(content["numbers"]) >= {"all", "car"}

    lines = [json.loads(text) for text in (out / "manifest.jsonl").read_text().splitlines()]
    change, whole = [], []
    for line in lines:
        if line["stage"] == "integrate" and "inputs" in line:
            inputs, outputs = list(line["inputs"]), list(line["outputs"])
            raw = cv2.imread(str(source / next(path for path in inputs if path.startswith("leftImg8bit"))))
            ids_path = next(path for path in inputs if path.endswith("_instanceIds.png"))
            mask = cv2.imread(str(source / ids_path), cv2.IMREAD_UNCHANGED) == line["instance_id"]
            edited = cv2.imread(str(out / next(path for path in outputs if path.startswith("panorama"))))
            change.append(np.abs(edited[mask].astype(float) - raw[mask]).mean())
            patch_path = next(path for path in inputs if path.startswith("work/generate"))
            patch = cv2.imread(str(out / patch_path)).astype(float)
            stem = patch_path.replace("generate", "select").removesuffix("_001.png")
            crop = cv2.imread(str(out / f"{stem}_rgb.png"))
            whole.append(10 * math.log10(255**2 / np.square(patch - crop).mean()))
    assert numbers["inside_change"]["mean"] == pytest.approx(np.mean(change))
    assert numbers["whole_patch_psnr_bgr"]["mean"] == pytest.approx(np.mean(whole))


# ---- what needs weights -------------------------------------------------------------------------


def noise_images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 299, 299, 3), np.uint8))


def test_weights_that_are_not_there_are_named():
    for weights, flag in (
        (Weights(inception="none.pth"), "--inception_weights none.pth: no such file"),
        (Weights(lpips="none.pth"), "--lpips_weights none.pth: no such file"),
        (Weights(clip="openai/none", offline=True), "--clip_model openai/none: no such file"),
    ):
        with pytest.raises(InputError, match=flag):
            Networks(weights)


def test_a_missing_library_is_reported_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    weights = tmp_path / "inception.pth"
    weights.touch()
    found = Networks(Weights(inception=str(weights))).results()
    assert found["fid"] == found["kid"] == INSTALL


def test_a_damaged_file_of_weights_is_one_line(tmp_path):
    pytest.importorskip("torch_fidelity")
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="can't be loaded") as error:
        Networks(Weights(inception=str(weights)))
    assert "\n" not in str(error.value)


def test_fid_and_kid_through_a_small_network(tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    pytest.importorskip("torch_fidelity")
    import torch

    class Small(torch.nn.Module):  # means of colours over a 2x2 grid: no metric to compare with others
        num_features = 12

        def forward(self, x):
            return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)

    monkeypatch.setattr(score_networks, "_inception", lambda path: Small())
    weights = tmp_path / "inception.pth"
    weights.touch()

    def scored(change):
        networks = Networks(Weights(inception=str(weights)))
        for image in noise_images(20):
            networks.add(image, change(image), "a car")
        return networks.results()

    same = scored(lambda image: image)
    darker = scored(lambda image: image // 2)
    assert same["fid"] == pytest.approx(0, abs=1e-3)
    # half as bright: means of 127.5 become 63.5 in all 12 numbers, spreads hardly matter
    assert darker["fid"] == pytest.approx(12 * 64**2, rel=0.02)
    assert darker["kid"] > abs(same["kid"])
    assert same["lpips_alex"].startswith("unavailable: give --lpips_weights")
    networks = Networks(Weights(inception=str(weights)))
    networks.add(noise_images(1)[0], noise_images(1)[0], "a car")
    assert networks.results()["fid"] == "unavailable: there are too few samples"


def test_clip_from_a_local_folder(tmp_path):
    pytest.importorskip("torchmetrics")
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 60, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(
        text_config=text | {"pad_token_id": 1}, vision_config=vision, projection_dim=8
    )
    model = transformers.CLIPModel(config).eval()
    words = ["<|startoftext|>", "<|endoftext|>"]
    words += [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    (tmp_path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokens = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = transformers.CLIPProcessor(images, tokens)
    processor.save_pretrained(tmp_path)

    prompts = [f"a photo of a {name}" for name in ("car", "bus", "red train", "man")]
    inputs = processor(text=prompts, images=noise_images(4), return_tensors="pt", padding=True)

    @torch.inference_mode()
    def mean_cosine() -> float:
        return float((model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()).mean())

    if mean_cosine() < 0:  # which would be scored 0
        model.visual_projection.weight.data.neg_()
    model.save_pretrained(tmp_path)
    networks = Networks(Weights(clip=str(tmp_path), offline=True))
    for image, prompt in zip(noise_images(4), prompts, strict=True):
        networks.add(image, image, prompt)
    assert mean_cosine() > 0
    assert networks.results()["clip_text_image"] == pytest.approx(100 * mean_cosine(), abs=1e-3)
