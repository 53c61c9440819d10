"""Frames that get new persons while a segmenter learns."""

import pytest
import torch

from benefit.live import LiveFrames
from segment.samples import read_sample
from streets.scenes import write_streets


@pytest.mark.parametrize("render", ("swap", "cutout"))
def test_live_frames_get_new_persons_that_follow_from_torchs_generator(tmp_path, render):
    write_streets(tmp_path / "tree", 3, 0, (512, 256), seed=1)
    bank = tmp_path / "bank.npz"
    live = LiveFrames(tmp_path / "tree", "train", "builtin:person", render, bank, (3, 3), 0, (512, 256))
    plain = read_sample(live.frames[0], (512, 256))
    samples = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        samples.append(live[0])
    assert torch.equal(samples[0].image, samples[1].image) and torch.equal(samples[0].boxes, samples[1].boxes)
    grown = [sample for sample in samples if len(sample.labels) > len(plain.labels)]
    assert grown and all(not torch.equal(sample.image, plain.image) for sample in grown)
    assert len({len(sample.labels) for sample in samples} | {len(plain.labels)}) > 1
