"""How many cores there are: those of the machine, or as many as the quota of a container allows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import threads
from support.threads import cores, cpu_quota, thread_settings

ROOT = Path(__file__).parents[2]
V1 = {"cpu.cfs_quota_us": "{}\n", "cpu.cfs_period_us": "100000\n"}


def write_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "groups", "quota"),
    [
        ("0::/\n", {"": {"cpu.max": "150000 100000\n"}}, 1.5),
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, None),
        ("0::/\n", {"": {}}, None),
        (
            "0::/job/step\n",
            {"job": {"cpu.max": "300000 100000\n"}, "job/step": {"cpu.max": "max 100000\n"}},
            3,
        ),
        (
            "0::/job/step\n",
            {"job": {"cpu.max": "50000 100000\n"}, "job/step": {"cpu.max": "4000 1000\n"}},
            0.5,
        ),
        ("0::/of/the/machine\n", {"": {"cpu.max": "200000 100000\n"}}, 2),  # seen from within a container
        ("4:memory:/a\n3:cpu,cpuacct:/a\n", {"cpu,cpuacct/a": {**V1, "cpu.cfs_quota_us": "250000\n"}}, 2.5),
        ("3:cpu,cpuacct:/docker/1\n", {"cpu": {**V1, "cpu.cfs_quota_us": "100000\n"}}, 1),
        ("3:cpu,cpuacct:/a\n0::/\n", {"cpu/a": {**V1, "cpu.cfs_quota_us": "-1\n"}, "": {}}, None),
        ("5:cpuset:/a\n", {"cpuset/a": {**V1, "cpu.cfs_quota_us": "100000\n"}}, None),
        ("nonsense\n", {"": {"cpu.max": "100000 100000\n"}}, None),
        (None, {}, None),
    ],
)
def test_the_quota_is_the_least_of_the_groups_around_the_process(own, groups, quota, tmp_path):
    for name, files in groups.items():
        write_group(tmp_path / "cgroup" / name, files)
    if own:
        (tmp_path / "own").write_text(own)
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == quota


@pytest.mark.parametrize(("quota", "count"), [(None, 8), (0.3, 1), (1.2, 2), (2.0, 2), (64.0, 8)])
def test_cores_are_those_allowed_as_far_as_the_quota_reaches(quota, count, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert cores() == count


def test_it_can_be_asked_before_any_library_is_imported():
    code = "import sys, support.threads; assert not {'torch', 'cv2', 'numpy', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize(
    ("environment", "quota", "settings"),
    [
        ({}, None, {"GOMP_SPINCOUNT": "1000"}),
        ({"OMP_WAIT_POLICY": "active"}, None, {}),
        ({"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "3"}, 2.0, {}),
        ({}, 1.5, {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "2"}),
    ],
)
def test_threads_are_set_up_as_far_as_the_user_has_not(environment, quota, settings, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert thread_settings(environment) == settings


@pytest.mark.parametrize("module", ["main", "scripts.segment", "scripts.evaluate"])
def test_programs_set_threads_up_before_torch_is_imported(module):
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.exit()
sys.meta_path.insert(0, Watch())
import {module}
"""
    environment = {name: value for name, value in os.environ.items() if name not in threads._WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1000\n", done.stderr
