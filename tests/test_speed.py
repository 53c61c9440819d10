"""Precision, memory format and several processes: the same numbers by other ways."""

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loader.noise import draw_noise
from model import WhereWhat
from support.checkpoints import list_checkpoints, load_checkpoint
from tests.miniature import write_miniature
from tests.test_model import TINY, double, make_batch
from tests.test_parity import FILES, biases_before_norm, build, load, read_batch, read_noise
from training import Optimisers, train_step

LOSSES = WhereWhat(TINY).loss_names
ROOT = Path(__file__).parents[1]


def losses_of(options, batch, noise) -> dict[str, float]:
    torch.manual_seed(0)
    model = WhereWhat(options)
    return {name: value.item() for name, value in train_step(model, Optimisers(model), batch, noise).items()}


# ---- bf16 ---------------------------------------------------------------------------------------


class RoundedProducts(TorchDispatchMode):
    """float32 in which factors and results of convolutions and products have as few digits as in bf16.

    They are rounded on a grid of their own each, shifted at random, so that every seed is another draw of
    what such rounding does. D object and the STN, which autocast leaves alone, are left alone here too.
    """

    PRODUCTS = (torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)

    def __init__(self, model: WhereWhat, seed: int):
        super().__init__()
        self.generator, self.exact = torch.Generator().manual_seed(seed), 0
        for name in ("d_obj", "stn"):
            model.networks[name].register_forward_pre_hook(lambda *_: self.enter_exact(1))
            model.networks[name].register_forward_hook(lambda *_: self.enter_exact(-1))

    def enter_exact(self, change: int) -> None:
        self.exact += change

    def rounded(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        shift = 2 ** torch.rand(1, generator=self.generator).item()
        return (value * shift).bfloat16().float() / shift

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.exact or function.overloadpacket not in self.PRODUCTS:
            return function(*args, **(kwargs or {}))
        return self.rounded(function(*map(self.rounded, args), **(kwargs or {})))


@torch.no_grad()
def losses_at(model: WhereWhat, batch, noise) -> dict[str, float]:
    """The losses of the first half before any update: after one Adam's step is a gradient's sign."""
    views = model.views(batch)
    paths = model(views, noise, 0)
    found = model.d_losses(views, paths) | model.g_losses(views, noise, paths)
    assert set(found) == set(LOSSES)
    return {name: value.item() for name, value in found.items() if name != "g_total"}


def copied(model: WhereWhat, **options) -> WhereWhat:
    other = WhereWhat(dataclasses.replace(model.options, **options))
    other.load_state_dict(model.state_dict())
    return other


def losses_off(model: WhereWhat, batch, noise, draws: int) -> dict[str, tuple[float, float, float]]:
    """Of each loss: its value in float32, how far off bf16 is, how far off rounded products are at most."""
    exact = losses_at(model, batch, noise)
    short = losses_at(copied(model, precision="bf16"), batch, noise)
    rounded = []
    for seed in range(draws):
        with RoundedProducts(other := copied(model), seed):
            rounded.append(losses_at(other, batch, noise))
    return {
        name: (value, short[name] - value, max(abs(one[name] - value) for one in rounded))
        for name, value in exact.items()
    }


def allowed(value: float, rounding: float) -> float:
    """How far off bf16 may be: thrice the most that rounded products were seen to do, since sums, norms and
    activations between them are rounded too; and the digits that float32 and bf16 print alike."""
    return 3 * rounding + 1e-3 * abs(value) + 1e-4


def test_bf16_losses_are_off_by_its_rounding_alone_at_random_starts():
    starts = []
    for seed in range(8):
        torch.manual_seed(seed)
        batch, noise = make_batch(2), draw_noise(TINY, [2 * seed, 2 * seed + 1])
        starts.append(losses_off(WhereWhat(TINY), batch, noise, draws=3))
    assert any(off for start in starts for _, off, _ in start.values())
    for name in starts[0]:
        rounding = max(start[name][2] for start in starts)
        value = sum(abs(start[name][0]) for start in starts) / len(starts)
        if value > 0.1:
            assert allowed(value, rounding) < 0.03 * value, name  # so that 3% more or less would be seen
        for value, off, _ in (start[name] for start in starts):
            assert abs(off) <= allowed(value, rounding), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bf16_losses_are_off_by_its_rounding_alone_on_the_parity_inputs(path):
    model = build(load(path))
    batch, noise = read_batch(load(path), 0), read_noise(load(path), 0, model)
    for name, (value, off, rounding) in losses_off(model, batch, noise, draws=4).items():
        assert abs(off) <= allowed(value, rounding), name


@torch.no_grad()
def test_bf16_leaves_d_object_its_digits():
    torch.manual_seed(0)
    model = WhereWhat(dataclasses.replace(TINY, precision="bf16"))
    d_obj, d_what = model.networks["d_obj"], model.networks["d_what"]
    masks = torch.rand(4, 1, *model.maps.compact)
    expected = d_obj(masks)
    with model.autocast():
        assert torch.equal(d_obj(masks), expected)
        assert d_what[1](torch.rand(1, TINY.df_dim, 8, 8)).dtype == torch.bfloat16


def assert_same_weights(state: dict, model: WhereWhat, rtol: float, atol: float) -> None:
    """All parameters but those that instance norm removes, whose gradient is rounding noise."""
    noise = biases_before_norm(model)
    for name, value in model.networks.state_dict().items():
        if name not in noise:
            torch.testing.assert_close(state[name], value, rtol=rtol, atol=atol, msg=name)


def test_channels_last_changes_nothing():
    batch, noise = make_batch(), draw_noise(TINY, range(2))
    plain = losses_of(dataclasses.replace(TINY, channels_last=False), batch, noise)
    other = losses_of(TINY, batch, noise)
    assert TINY.channels_last
    for name in LOSSES:
        assert other[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-5), name


def test_a_run_may_go_on_in_the_other_memory_format():
    """What Adam remembers has to be turned over with the weights."""
    torch.set_default_dtype(torch.float64)
    try:
        batch, noise = make_batch(), double(draw_noise(TINY, range(2)))
        batch = dataclasses.replace(batch, compact=batch.compact.double(), theta=batch.theta.double())
        torch.manual_seed(0)
        models = [WhereWhat(dataclasses.replace(TINY, channels_last=last)) for last in (True, False)]
        optimisers = [Optimisers(model) for model in models]
        train_step(models[0], optimisers[0], batch, noise)
        models[1].load_state_dict(models[0].state_dict())
        optimisers[1].load_state_dict(copy.deepcopy(optimisers[0].state_dict()))
        for model, optimiser in zip(models, optimisers, strict=True):
            train_step(model, optimiser, batch, noise)
        assert_same_weights(models[0].networks.state_dict(), models[1], rtol=1e-6, atol=1e-8)
    finally:
        torch.set_default_dtype(torch.float32)


# ---- several processes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_miniature(root / "set", "train", count=5, seed=1)
    write_miniature(root / "set", "val", count=2, seed=2)
    return root


def launch(streets, run_dir, processes: int, *arguments, wait: bool = True):
    """torchrun main.py on the CPU."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    data = ["--db_root", streets / "set", "--cache_dir", streets / "cache", "--run_dir", run_dir]
    options = ["--preset", "tiny", "--sample_every", "0", *arguments]
    process = subprocess.Popen(
        [*line, "main.py", *map(str, [*data, *options])],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if not wait:
        return process
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return load_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1])


def test_two_processes_equal_one_with_twice_the_batch(streets, tmp_path):
    two = launch(streets, tmp_path / "two", 2, "--batch_size", 1, "--max_iters", 3)
    one = launch(streets, tmp_path / "one", 1, "--batch_size", 2, "--max_iters", 3)
    assert two["samples_seen"] == one["samples_seen"] == 6
    model = WhereWhat(TINY)
    model.networks.load_state_dict(one["networks"])
    # Adam makes whole steps of rounding noise: a few numbers of 130,000 may differ by steps (2e-4 each).
    noise, differing, count = biases_before_norm(model), 0, 0
    for name, value in one["networks"].items():
        if name not in noise:
            difference = (two["networks"][name] - value).abs()
            assert difference.max() < 6 * 4e-4, name
            differing, count = differing + int((difference > 2e-5).sum()), count + value.numel()
    assert differing < 2e-3 * count


def test_resume_with_the_same_ranks_is_exact_and_with_others_works(streets, tmp_path):
    straight = launch(streets, tmp_path / "straight", 2, "--max_iters", 4)
    launch(streets, tmp_path / "halves", 2, "--max_iters", 2)
    halves = launch(streets, tmp_path / "halves", 2, "--max_iters", 4, "--resume", "auto")
    for name, value in straight["networks"].items():
        assert torch.equal(value, halves["networks"][name]), name
    alone = launch(streets, tmp_path / "halves", 1, "--max_iters", 5, "--resume", "auto")
    assert alone["iteration"] == 5 and alone["samples_seen"] == halves["samples_seen"] + 1


def test_a_dying_rank_ends_the_job(streets, tmp_path):
    job = launch(streets, tmp_path / "run", 2, "--max_iters", 100000, "--save_every", 100000, wait=False)
    stats = tmp_path / "run" / "stats.jsonl"
    deadline = time.monotonic() + 120
    while not stats.exists() or stats.read_text().count("\n") < 2:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(rank_processes(job.pid)[-1], signal.SIGKILL)
    out, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "another process of this job is gone" in out or "SIGKILL" in out


def rank_processes(parent: int) -> list[int]:
    """Children of the launcher that run main.py."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(c) for c in children if "main.py" in Path(f"/proc/{c}/cmdline").read_text()]
