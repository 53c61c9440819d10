"""How many processor cores this program may use. Imports no library, so that it can be asked before any."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """The processor cores that this program may use: those it may run on, as far as its quota reaches."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, max(1, math.ceil(quota)))


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
