"""The CPU quota of this process's control group, by which containers and services limit it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath


def cgroup_cpus(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int:
    """The smallest CPU quota of the process's cgroup and those above it, rounded up; 0: none.

    `membership` names the cgroup, one line "number:controllers:path" for each hierarchy; version 2
    has no controllers there. Inside a container the path may be the host's: what does not exist
    below `root` is skipped.

    Source: the Linux kernel's documentation, cgroup-v2.rst and cgroup-v1/cpuacct.rst.
    """
    quotas = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path)
        for level in (group, *group.parents):
            quota = _quota_v1(root, level) if controllers else _quota_v2(root, level)
            quotas += [quota] if quota else []
    return min(quotas, default=0)


def _quota_v2(root: str, group: PurePosixPath) -> int:
    return _cpus(_read(f"{root}{group}/cpu.max"))


def _quota_v1(root: str, group: PurePosixPath) -> int:
    folder = f"{root}/cpu{group}"
    return _cpus(_read(f"{folder}/cpu.cfs_quota_us") + _read(f"{folder}/cpu.cfs_period_us"))


def _cpus(text: str) -> int:
    """Quota and period, in microseconds, as whole CPUs; "max" or -1 is no quota."""
    try:
        quota, period = map(int, text.split())
    except ValueError:
        return 0
    return max(0, -(-quota // period)) if period > 0 else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
