"""What a segmenter learns from: samples, windows, batches."""

import numpy as np
import torch

from segment.models import build
from segment.samples import (
    CLASSES,
    MIN_PIXELS,
    Mixture,
    TrainingFrame,
    batch_of,
    frames_of,
    read_sample,
    window_of,
)
from tests.equality import assert_same
from tests.town import write_town

CPU = torch.device("cpu")


def test_a_sample_holds_the_singles_and_leaves_groups_out(tmp_path):
    write_town(tmp_path, 1)
    (frame,) = frames_of(str(tmp_path), "train", "--data")
    sample = read_sample(frame, None)
    assert [CLASSES[number] for number in sample.labels] == ["person", "person", "car"]
    image, target = sample.on(CPU)
    assert image.shape == (3, 128, 256) and target["masks"].shape == (3, 128, 256)
    assert target["boxes"][2].tolist() == [20, 80, 81, 113]
    assert target["masks"][2, 80:113, 20:81].all() and target["masks"][2].sum() == 61 * 33
    half = read_sample(frame, (128, 64))
    assert half.boxes[1].tolist() == [10, 40, 40, 56] or half.image.shape == (3, 64, 128)


def test_a_batch_follows_from_seed_and_position_and_flips_masks_with_the_image(tmp_path):
    write_town(tmp_path, 2)
    samples = [read_sample(frame, None) for frame in frames_of(str(tmp_path), "train", "--data")]
    mixture = Mixture([samples], (1.0,))
    images, targets = batch_of(mixture, 0, range(8), CPU)
    again, _ = batch_of(mixture, 0, range(8), CPU)
    assert_same(images, again)
    widths = {tuple(target["boxes"][2].tolist()) for target in targets}
    assert len(widths) > 2  # two frames, some of them flipped
    for image, target in zip(images, targets, strict=True):
        assert image.min() >= 0 and image.max() <= 1
        x0, y0, x1, y1 = target["boxes"][2].int().tolist()
        assert target["masks"][2, y0:y1, x0:x1].all() and target["masks"][2].sum() == (x1 - x0) * (y1 - y0)


def test_a_window_shows_an_instance_and_is_cut_from_image_masks_and_boxes_alike(tmp_path):
    write_town(tmp_path, 1)
    (frame,) = frames_of(str(tmp_path), "train", "--data")
    sample = read_sample(frame, None)
    seen = set()
    for seed in range(12):
        window = window_of(sample, (48, 40), np.random.default_rng(seed))
        assert window.image.shape == (3, 40, 48) and window.instance.shape == (40, 48)
        places = [
            (x, y)
            for y in range(128 - 40 + 1)
            for x in range(256 - 48 + 1)
            if torch.equal(sample.image[:, y : y + 40, x : x + 48], window.image)
            and torch.equal(sample.instance[y : y + 40, x : x + 48] > 0, window.instance > 0)
        ]
        assert places  # the same part of both, all instances there large enough
        areas = np.bincount(window.instance.flatten(), minlength=len(window.labels) + 1)[1:]
        assert len(areas) == len(window.labels) and (areas >= MIN_PIXELS).all()
        for number, (x0, y0, x1, y1) in enumerate(window.boxes.int().tolist(), 1):
            rows, columns = torch.where(window.instance == number)
            corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (x0, y0, x1, y1) == tuple(map(int, corners))
        seen |= {CLASSES[number] for number in window.labels}
    assert seen == {"person", "car"}
    assert window_of(sample, (9999, 9999), np.random.default_rng(0)).image.shape == (3, 128, 256)


def test_an_image_without_instances_and_missing_classes_can_be_learnt_from():
    model = build("maskrcnn_small_fpn", "none").train()
    sample = TrainingFrame(
        torch.zeros(3, 64, 128, dtype=torch.uint8),
        torch.zeros(64, 128, dtype=torch.int16),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 4),
    )
    losses = model(*batch_of(Mixture([[sample]], (1.0,)), 0, range(2), CPU))
    assert sum(losses.values()).isfinite() and losses["loss_mask"] == 0
