"""Processor cores and threads: how many cores this program may use, and how its threads wait.

Imports no library, so that it can be asked before any.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

# How often a thread of OpenMP looks before it sleeps at a barrier, of which a training step has thousands. By
# default libgomp looks hundreds of thousands of times, all the while keeping a core from the thread that it
# waits for as soon as anything else runs; asleep at once, it has to be woken thousands of times a step.
# Between them lies what docs/speed.md#beside-other-programs measured.
_SPINS = 1000
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # whoever sets one of them knows better

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """The processor cores that this program may use: those it may run on, as far as its quota reaches."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, max(1, math.ceil(quota)))


def thread_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment before torch is imported; nothing that is set there already.

    Threads sleep soon at barriers, and there are no more of them than a container's quota is worth.
    """
    settings = {}
    if not any(name in environment for name in _WAITING):
        settings["GOMP_SPINCOUNT"] = str(_SPINS)
    if "OMP_NUM_THREADS" not in environment and cpu_quota() is not None:
        settings["OMP_NUM_THREADS"] = str(cores())
    return settings


def cpu_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """The cores' worth of processor time that the control groups of this process allow; None: no limit.

    A container sees all cores of its machine however little of their time it was given (docker --cpus).
    cgroups: where the groups are mounted, version 1 or 2; own: the file that names those of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except (OSError, ValueError):  # no Linux
        return None
    groups = [line.split(":", 2)[1:] for line in lines if line.count(":") >= 2]
    return min((quota for group in groups for quota in _quotas(cgroups, *group)), default=None)


def _quotas(cgroups: Path, controllers: str, path: str) -> Iterator[float]:
    """The quotas of a group and of those around it.

    Within a container the path may be the machine's, where only the container's own group is mounted: what is
    not there is passed over.
    """
    if controllers and "cpu" not in controllers.split(","):
        return
    mounts = {cgroups / controllers, cgroups / "cpu"} if controllers else {cgroups}
    for mount in mounts:
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            try:
                quota, period = " ".join((folder / file).read_text() for file in files).split()
                if int(quota) > 0 and int(period) > 0:
                    yield int(quota) / int(period)
            except (OSError, ValueError):  # "max", or no such file
                pass
            if folder == mount:
                break
