"""Ranks: how gradients travel, how long a rank waits for another, how a job of several ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import distributed
from distributed import average_gradients
from loader.noise import draw_noise
from model import WhereWhat
from tests.miniature import write_miniature
from tests.test_model import TINY, make_batch
from training import Optimisers, train_step

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sent(monkeypatch):
    """Sizes of what this process, a job of its own, sends in all_reduce."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    sizes, all_reduce = [], dist.all_reduce

    def spy(tensor):
        sizes.append(tensor.numel())
        all_reduce(tensor)

    monkeypatch.setattr(dist, "all_reduce", spy)
    yield sizes
    dist.destroy_process_group()


def test_an_iteration_sends_three_messages(sent):
    """One for each update: of the discriminators, and twice of all the others."""
    model = WhereWhat(TINY)
    optimisers = Optimisers(model)
    train_step(model, optimisers, make_batch(), draw_noise(TINY, range(2)))
    numbers = {group: sum(p.numel() for p in some) for group, some in optimisers.parameters.items()}
    others = numbers["sup"] + numbers["g"]
    assert sent == [numbers["d"], others, others]


def test_buckets_keep_values_formats_and_their_limit(sent, monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 4 * 100)
    shapes = [(60,), (40,), (3, 4, 5, 2), (1,), (99,), (2,)]
    parameters = [torch.nn.Parameter(torch.empty(shape)) for shape in shapes]
    parameters[-1] = torch.nn.Parameter(torch.empty(2, dtype=torch.float64))
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, dtype=parameter.dtype)
    parameters[2].grad = parameters[2].grad.contiguous(memory_format=torch.channels_last)
    before = [(parameter.grad, parameter.grad.clone()) for parameter in parameters]
    average_gradients(parameters)
    assert sent == [100, 120, 100, 2]
    for parameter, (gradient, value) in zip(parameters, before, strict=True):
        assert parameter.grad is gradient and torch.equal(gradient, value)
    assert parameters[2].grad.is_contiguous(memory_format=torch.channels_last)


# ---- jobs of two ranks --------------------------------------------------------------------------

START = """
import datetime, os, signal, sys, time
import distributed, main
from loader import cache
from options import parse
from tests.forked import fork_ranks, let_other_threads_come_late, threads_of_the_group

data = ["--preset", "tiny", "--db_root", sys.argv[1] + "/set", "--cache_dir", sys.argv[1] + "/cache"]
"""


def job(text: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a program that forks its ranks itself."""
    write_miniature(folder / "set", "train", count=5, seed=1)
    write_miniature(folder / "set", "val", count=2, seed=2)
    return subprocess.run(
        [sys.executable, "-c", START + text, str(folder)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600,
    )  # fmt: skip


ENDING = """
def program():
    run = ["--run_dir", f"{sys.argv[1]}/{number}", "--max_iters", "2", "--sample_every", "0"]
    options, dry_run = parse([*data, *run])
    with distributed.joined() as ranks:
        main.train(options, dry_run, ranks)
        let_other_threads_come_late()
    if threads_of_the_group():
        sys.exit(f"still there: {threads_of_the_group()}")

for number in range(3):
    statuses = fork_ranks(program)
    assert statuses == [0, 0], statuses
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are told to come late by Linux's scheduler")
def test_jobs_end_cleanly_though_threads_come_late(tmp_path):
    done = job(ENDING, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished 2 iterations") == 3


SLOW_CACHE = """
limit, make = 4, cache._make_entry  # seconds

def slowly(*arguments):
    time.sleep(limit / 4)
    return make(*arguments)

def program():
    distributed.TIMEOUT = datetime.timedelta(seconds=limit)
    cache._make_entry = slowly
    options, dry_run = parse([*data, "--dry_run"])
    with distributed.joined() as ranks:
        main.train(options, dry_run, ranks)

statuses = fork_ranks(program)
assert statuses == [0, 0], statuses
"""


def test_a_cache_may_take_longer_than_the_limit(tmp_path):
    done = job(SLOW_CACHE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


DEATH = """
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def program():
    cache._make_entry = die
    options, dry_run = parse([*data, "--dry_run"])
    with distributed.joined() as ranks:
        main.train(options, dry_run, ranks)

statuses = fork_ranks(lambda: main.run_program(program))
assert statuses == [-9, 2], statuses
"""


def test_who_waits_for_the_cache_notices_a_death(tmp_path):
    done = job(DEATH, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "another process of this job is gone" in done.stderr
