"""The benches run and say what they promise; how fast they are is never tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import bench, bench_insertion
from streets.scenes import write_streets
from tests.programs import refused

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    write_streets(folder / "tree", 8, 1, (256, 128), seed=0)
    return folder / "tree"


def run_alone(*flags) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", *map(str, flags)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_step_against_its_plain_version(streets, tmp_path):
    flags = ("--preset", "tiny", "--db_root", streets, "--plain", "--repeats", 1, "--warm_up", 0)
    done = run_alone("scripts.bench", *flags, "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    for name in ("plain", "fp32", "bf16"):
        assert result[name]["iterations_per_second"] == pytest.approx(1 / result[name]["seconds"])
        assert result[name]["seconds"] > 0 and result[name]["seconds_alone"] > 0
        assert result[name]["peak_memory_mb"] >= result[name]["start_memory_mb"] > 100
    assert result["ratio"]["fp32"] == pytest.approx(result["plain"]["seconds"] / result["fp32"]["seconds"])
    assert {"fp32", "bf16", "memory"} == set(result["ratio"])
    assert {"data", "forward", "D", "G"} == set(result["phases"])
    assert result["plain"]["gflop"] > result["gflop"] > 0
    assert result["ceiling_gflops"] > 0 and result["achieved_gflops"] > 0
    assert result["loader"]["pairs_per_second"] > 0
    assert "iterations/s" in done.stdout and "times plain" in done.stdout and "nan" not in done.stdout
    assert "GFLOP an iteration" in done.stdout


@pytest.mark.slow
def test_insertion_against_the_published_path(streets):
    done = run_alone("scripts.bench_insertion", "--preset", "tiny", "--db_root", streets)
    assert done.returncode == 0, done.stderr
    assert "(8 images, start and writing included)" in done.stdout and "ratio: " in done.stdout
    assert "scripts.synth.run with swap: " in done.stdout and "256x128: " in done.stdout


@pytest.mark.parametrize(
    "program, flags, words",
    [
        (bench, ("--repeats", 0), "--repeats must be at least 1"),
        (bench, ("--variants", "fp9"), "variant 'fp9' is unknown"),
        (bench, ("--json", "/nowhere/x.json"), "its folder does not exist"),
        (bench, ("--db_root", "/nowhere"), "/nowhere"),
        (bench_insertion, ("--images", 0), "--images must be at least 1"),
        (bench_insertion, ("--db_root", "/nowhere"), "/nowhere"),
    ],
)
def test_wrong_input_is_one_line(program, flags, words):
    assert words in refused(program.main, *flags)
