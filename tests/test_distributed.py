"""Ranks: how gradients travel, the same weights as of one process, how long one waits, how a job ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import distributed
from distributed import average_gradients
from loader.noise import draw_noise
from model import WhereWhat
from support.checkpoints import list_checkpoints, load_checkpoint
from tests.miniature import write_miniature
from tests.test_model import TINY, make_batch
from tests.test_parity import biases_before_norm
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


# ---- jobs of torchrun ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return write_streets(tmp_path_factory.mktemp("data"))


def write_streets(folder: Path) -> Path:
    write_miniature(folder / "set", "train", count=5, seed=1)
    write_miniature(folder / "set", "val", count=2, seed=2)
    return folder


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_resume_with_the_same_ranks_is_exact_and_with_others_works(streets, tmp_path):
    straight = launch(streets, tmp_path / "straight", 2, "--max_iters", 4)
    launch(streets, tmp_path / "halves", 2, "--max_iters", 2)
    halves = launch(streets, tmp_path / "halves", 2, "--max_iters", 4, "--resume", "auto")
    for name, value in straight["networks"].items():
        assert torch.equal(value, halves["networks"][name]), name
    alone = launch(streets, tmp_path / "halves", 1, "--max_iters", 5, "--resume", "auto")
    assert alone["iteration"] == 5 and alone["samples_seen"] == halves["samples_seen"] + 1


@pytest.mark.slow
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


# ---- jobs that fork their ranks --------------------------------------------------------------------------

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
    return subprocess.run(
        [sys.executable, "-c", START + text, str(write_streets(folder))],
        cwd=ROOT, capture_output=True, text=True,
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_who_waits_for_the_cache_notices_a_death(tmp_path):
    done = job(DEATH, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "another process of this job is gone" in done.stderr
