"""The diffusion back ends, on tiny random pipelines that are saved and loaded as real ones are."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from augment.paint.backends import Request, fill_all, make_backend
from augment.paint.backends.diffusion import DEFAULTS, widen, window_of, working_size
from distributed import choose_device
from scripts import insert
from scripts.synth import run as synth
from support.errors import InputError
from tests.equality import tree_in
from tests.label.tiny_models import save_tokenizer
from tests.mini_frames import write_mini
from tests.programs import run_ok
from tests.town import write_checkpoint, write_town

REPOSITORY = Path(__file__).parents[4]
TINY = {"size": 64, "steps": 2, "min_side": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders of a tiny inpainting model and a tiny SDXL base, by back end."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        PNDMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)

    def unet(channels: int, **more) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            **more,
        )

    def vae() -> AutoencoderKL:
        return AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )

    def text(kind: type):
        sizes = {"hidden_size": 32, "intermediate_size": 37, "projection_dim": 32, "num_hidden_layers": 2}
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        return kind(CLIPTextConfig(vocab_size=300, num_attention_heads=4, **sizes, **ends))

    StableDiffusionInpaintPipeline(
        vae=vae(),
        text_encoder=text(CLIPTextModel),
        tokenizer=tokenizer(root / "tokenizer"),
        unet=unet(9, cross_attention_dim=32, attention_head_dim=8),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(root / "inpaint")
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text(CLIPTextModel),
        text_encoder_2=text(CLIPTextModelWithProjection),
        tokenizer=tokenizer(root / "tokenizer"),
        tokenizer_2=tokenizer(root / "tokenizer"),
        unet=unet(
            4,
            cross_attention_dim=64,
            attention_head_dim=(4, 8),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
    ).save_pretrained(root / "xl")
    return {"sd_inpaint": str(root / "inpaint"), "sdxl_blend": str(root / "xl")}


def tokenizer(folder: Path):
    """A CLIP tokenizer that knows single letters, written to `folder` and read from there."""
    from transformers import CLIPTokenizer

    folder.mkdir(exist_ok=True)
    save_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def request(count: int = 3, prompt: str = "a red car", seed: int = 5) -> Request:
    """A smooth crop of 80 x 80 with a disc to repaint."""
    rows, columns = np.mgrid[:80, :80]
    rgb = np.uint8(np.stack([rows * 2, columns * 2, 255 - rows - columns], 2))
    mask = (rows - 45) ** 2 + (columns - 35) ** 2 < 18**2
    return Request(rgb, mask, "car", "town_000000_000000/26000", (prompt,) * count, "", seed)


@pytest.fixture(params=("sd_inpaint", "sdxl_blend"))
def name(request) -> str:
    return request.param


def test_repaints_the_mask_of_a_loaded_model(models, name):
    backend = make_backend(name, {"model": models[name], **TINY}, Path("."), "train")
    crop_request = request()
    images = backend.fill(crop_request)
    assert len(images) == 3
    for image in images:
        assert image.shape == crop_request.rgb.shape and image.dtype == np.uint8
        assert (image != crop_request.rgb)[crop_request.mask].any(1).mean() > 0.9
    assert not np.array_equal(images[0], images[1])
    assert backend.details["model"] == models[name] and backend.details["params"]["dtype"] == "fp32"


def test_samples_do_not_depend_on_batches_or_count(models, name):
    settings = {"model": models[name], **TINY}
    together = make_backend(name, settings | {"batch_size": 4}, Path("."), "train").fill(request(3))
    single = make_backend(name, settings | {"batch_size": 1}, Path("."), "train")
    alone = single.fill(request(3))
    for one, other in zip(together, alone, strict=True):  # sums of other batches round otherwise
        assert np.abs(one.astype(int) - other).max() <= 1
    assert np.array_equal(single.fill(request(1))[0], alone[0])
    assert not np.array_equal(single.fill(request(1, seed=6))[0], alone[0])


def test_samples_of_several_objects_share_batches(models, name, monkeypatch):
    backend = make_backend(name, {"model": models[name], "batch_size": 4, **TINY}, Path("."), "train")
    alone = [backend.fill(one) for one in (request(3), request(2, seed=6), request(1, seed=7))]
    sizes, paint = [], backend._paint
    monkeypatch.setattr(backend, "_paint", lambda batch: sizes.append(len(batch)) or paint(batch))
    together = fill_all(backend, [request(3), request(2, seed=6), request(1, seed=7)])
    assert sizes == [4, 2]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.array(one).astype(int) - np.array(other)).max() <= 1  # as above


def test_an_object_that_fails_fails_alone(models, name, monkeypatch):
    backend = make_backend(name, {"model": models[name], **TINY}, Path("."), "train")
    paint = backend._paint

    def broken(batch):
        if any(one.request.seed == 6 for one in batch):
            raise RuntimeError("out of photons")
        return paint(batch)

    monkeypatch.setattr(backend, "_paint", broken)
    good, bad, also_good = fill_all(backend, [request(1), request(2, seed=6), request(1, seed=7)])
    assert len(good) == len(also_good) == 1 and str(bad) == "out of photons"


@pytest.mark.slow
def test_two_shards_repaint_as_one_process_does(models, tmp_path):
    write_mini(tmp_path / "in")
    settings = "".join(
        f"  {key}: {value}\n" for key, value in (TINY | {"model": models["sd_inpaint"]}).items()
    )
    (tmp_path / "config.yaml").write_text(f"backend:\n  name: sd_inpaint\n{settings}")
    flags = ("--db_root", tmp_path / "in", "--config", tmp_path / "config.yaml", "--k", 2, "--num_workers", 1)
    flags = (*flags, "--limit", 3, "--raw_splits", "", "--out")
    run_ok(synth.main, *flags, tmp_path / "one")
    for shard in ("2/2", "1/2"):
        printed = run_ok(synth.main, *flags, tmp_path / "two", "--shard", shard)
    assert tree_in(tmp_path / "two") == tree_in(tmp_path / "one")
    assert "generate   12 ok" in printed


def test_each_process_of_torchrun_has_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert str(choose_device("auto")) == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert str(choose_device("auto")) == str(choose_device("cuda")) == "cuda:3"
    assert str(choose_device("cuda:1")) == "cuda:1"


def test_the_prompt_and_the_image_reach_the_model(models, name):
    backend = make_backend(name, {"model": models[name], "guidance": 8.0, **TINY}, Path("."), "train")
    first = backend.fill(request(1))[0]
    assert not np.array_equal(backend.fill(request(1, prompt="a white van at night"))[0], first)
    brighter = request(1)
    brighter.rgb[:, :20] = 255
    assert not np.array_equal(backend.fill(brighter)[0][30:60, 30:50], first[30:60, 30:50])


def test_attention_slicing_and_strength_are_taken(models, name):
    settings = {"model": models[name], **TINY, "steps": 4}
    plain = make_backend(name, settings | {"strength": 0.5}, Path("."), "train").fill(request(1))[0]
    sliced = settings | {"strength": 0.5, "attention_slicing": True}
    again = make_backend(name, sliced, Path("."), "train").fill(request(1))[0]
    assert np.abs(plain.astype(int) - again).max() <= 1
    full = make_backend(name, settings | {"strength": 1.0}, Path("."), "train").fill(request(1))[0]
    assert not np.array_equal(plain, full)


def test_surroundings_beyond_the_window_stay(models, name):
    """A small object is seen in a window of its own, and the rest of the crop comes back as it was."""
    crop_request = request(1)
    crop_request.mask[:] = False
    crop_request.mask[4:10, 60:68] = True
    image = make_backend(name, {"model": models[name], **TINY}, Path("."), "train").fill(crop_request)[0]
    window = window_of(crop_request.mask, TINY["min_side"])
    outside = np.ones(crop_request.mask.shape, bool)
    outside[window] = False
    assert outside.sum() == 80 * 80 - 32 * 32 and not outside[crop_request.mask].any()
    assert np.array_equal(image[outside], crop_request.rgb[outside])


def test_new_objects_are_painted_by_a_model(models, name, tmp_path):
    """Of what the model makes of its whole window, the pixels of the new objects alone enter the image."""
    write_town(tmp_path / "in", 2)
    checkpoint = write_checkpoint(tmp_path / "person")
    settings = "".join(f"  {key}: {value}\n" for key, value in (TINY | {"model": models[name]}).items())
    (tmp_path / "config.yaml").write_text(f"backend:\n{settings}")
    out = tmp_path / "out"
    flags = ["--checkpoint", checkpoint, "--db_root", tmp_path / "in", "--out", out, "--no_gate"]
    flags += ["--render", name, "--render_config", tmp_path / "config.yaml", "--shadow", 0]
    run_ok(insert.main, *flags)
    for path in (out / "leftImg8bit").rglob("*.png"):
        before = cv2.imread(str(tmp_path / "in" / path.relative_to(out)))
        inserted = next(out.glob(f"inserted/train/town/{path.name[:18]}*"))
        new, after = cv2.imread(str(inserted), cv2.IMREAD_UNCHANGED) > 0, cv2.imread(str(path))
        assert np.array_equal(after[~new], before[~new])
        assert (after[new] != before[new]).any(1).mean() > 0.9
    line = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert line["render"]["details"][0]["model"] == models[name]


def test_a_model_of_another_kind_is_named(models, name):
    wrong = models["sdxl_blend" if name == "sd_inpaint" else "sd_inpaint"]
    with pytest.raises(InputError) as error:
        make_backend(name, {"model": wrong, **TINY}, Path("."), "train")
    assert wrong in str(error.value) and "set model to" in str(error.value) and "\n" not in str(error.value)


def test_damaged_and_missing_models_are_one_line(models, tmp_path, monkeypatch):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for folder, wanted in (
        (str(damaged), "model_index.json"),
        (str(tmp_path / "nowhere"), "no such folder"),
        ("nobody/no-such-model", "hf download"),
    ):
        with pytest.raises(InputError) as error:
            make_backend("sd_inpaint", {"model": folder, "offline": True, **TINY}, Path("."), "train")
        assert wanted in str(error.value) and "\n" not in str(error.value)
    (damaged / "model_index.json").write_text(
        (Path(models["sd_inpaint"]) / "model_index.json").read_text()  # but none of its parts
    )
    with pytest.raises(InputError, match="copy the folder again"):
        make_backend("sd_inpaint", {"model": str(damaged), **TINY}, Path("."), "train")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="hf download"):
        make_backend("sdxl_blend", {"model": "nobody/no-such-model", **TINY}, Path("."), "train")


def test_a_missing_library_is_one_line(monkeypatch):
    real = builtins.__import__

    def without(module, *rest):
        if module.split(".")[0] == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'")
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError) as error:
        make_backend("sd_inpaint", {"device": "cpu"}, Path("."), "train")
    assert "-r requirements-diffusion.txt" in str(error.value) and "\n" not in str(error.value)


def test_the_library_is_not_imported_before_it_is_needed():
    """Neither the interface nor a weight-free back end brings diffusers in."""
    code = (
        "import sys; from augment.paint.backends import make_backend;"
        "make_backend('recolor', {}, '.', 'train'); make_backend('cv_inpaint', {}, '.', 'train');"
        "assert not {'diffusers', 'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, env=dict(os.environ))


def test_bad_settings_are_one_line():
    for settings, wanted in (
        ({"dtype": "fp8"}, "choose fp16"),
        ({"size": 500}, "multiple of 8"),
        ({"strength": 0.0}, "strength"),
        ({"steps": "many"}, "steps must be of type int"),
        ({"sampler": "ddim"}, "unknown setting 'sampler'"),
        ({"device": "quantum"}, "choose auto, cpu"),
    ):
        with pytest.raises(InputError, match=wanted):
            make_backend("sd_inpaint", settings, Path("."), "train")


def test_the_defaults_are_the_published_settings():
    inpaint, blend = DEFAULTS["sd_inpaint"], DEFAULTS["sdxl_blend"]
    assert (inpaint.steps, inpaint.guidance, inpaint.size, inpaint.strength) == (50, 7.5, 512, 1.0)
    assert (blend.steps, blend.guidance, blend.size, blend.strength) == (50, 5.0, 1024, 0.75)


def test_the_mask_grows_by_one_latent_pixel():
    mask = np.zeros((100, 100), bool)
    mask[50, 50] = True
    wide = widen(mask, 400, 400)
    rows, columns = np.nonzero(wide)
    assert wide.dtype == np.uint8 and wide.max() == 1
    scaled = 4  # pixels of the model to one of the mask; linear enlargement reaches two more on each side
    assert rows.max() - rows.min() + 1 == scaled + 2 * 8 + 4
    shrunk = widen(mask, 24, 24)
    assert shrunk[12, 12] and 150 < shrunk.sum() < 17 * 17  # a disc of 17; one pixel does not vanish


def test_the_model_size_keeps_the_aspect():
    assert working_size(200, 200, 512) == (512, 512)
    assert working_size(200, 100, 512) == (512, 256)
    assert working_size(300, 7, 512) == (512, 8)
    small = np.zeros((200, 300), bool)
    small[100:103, 299] = True
    assert window_of(small, 128) == (slice(37, 165), slice(172, 300))
