"""The limits of this process's control group, by which containers and services restrict it.

Source: the Linux kernel's documentation, cgroup-v2.rst, cgroup-v1/cpuacct.rst and memory.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT, _MEMBERSHIP = "/sys/fs/cgroup", "/proc/self/cgroup"


def cgroup_cpus(root: str = _ROOT, membership: str = _MEMBERSHIP) -> int:
    """The smallest CPU quota of the process's cgroup and those above it, rounded up; 0: none."""
    quotas = []
    for folder, is_v1 in _folders("cpu", root, membership):
        names = ["cpu.cfs_quota_us", "cpu.cfs_period_us"] if is_v1 else ["cpu.max"]
        quota = _cpus("".join(_read(f"{folder}/{name}") for name in names))
        quotas += [quota] if quota else []
    return min(quotas, default=0)


def cgroup_memory(root: str = _ROOT, membership: str = _MEMBERSHIP) -> int | None:
    """The bytes that the process's cgroup and those above it still have; None: no limit.

    Cached pages of files that nothing has used lately count as free: the kernel drops them first.
    """
    free = []
    for folder, is_v1 in _folders("memory", root, membership):
        limit, used, cached = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if is_v1
            else ("memory.max", "memory.current", "inactive_file")
        )
        most, now = _number(_read(f"{folder}/{limit}")), _number(_read(f"{folder}/{used}"))
        if most is not None and now is not None:
            lines = map(str.split, _read(f"{folder}/memory.stat").splitlines())
            droppable = sum(int(line[1]) for line in lines if line[:1] == [cached])
            free.append(max(0, most - now + droppable))
    return min(free, default=None)


def _folders(controller: str, root: str, membership: str) -> Iterator[tuple[str, bool]]:
    """The folders of the process's cgroup and those above it, and whether each is of version 1.

    `membership` names the cgroup, one line "number:controllers:path" for each hierarchy; version 2
    has no controllers there. Inside a container the path may be the host's: what does not exist
    below `root` is skipped when it is read.
    """
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        group = PurePosixPath(path)
        for level in (group, *group.parents):
            folder = f"{root}/{controller}{level}" if controllers else f"{root}{level}"
            yield folder, bool(controllers)


def _cpus(text: str) -> int:
    """Quota and period, in microseconds, as whole CPUs; "max" or -1 is no quota."""
    try:
        quota, period = map(int, text.split())
    except ValueError:
        return 0
    return max(0, -(-quota // period)) if period > 0 else 0


def _number(text: str) -> int | None:
    """Bytes; "max", or a file that does not exist, is none."""
    return int(text) if text.strip().isdecimal() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
