"""The machine and the software, and whether something else is running on it."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import NamedTuple

import cpuinfo
import psutil

import cyopt
from cyopt.runtime import Info

_CPU = Path("/sys/devices/system/cpu/cpu0")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_MOMENT = 0.5  # seconds over which the load is measured
_BUSY = 0.1  # of all CPUs' time; idle machines show 0.00 to 0.03


class Load(NamedTuple):
    """How much others use the machine."""

    now: float  # the fraction of all CPUs' time
    minute: float  # the load average: how many processes ran or waited to run

    def __str__(self) -> str:
        return f"{self.now:.0%} of the CPUs' time in use, load average {self.minute:.2f}"

    @property
    def is_busy(self) -> bool:
        """Whether it can affect what is measured."""
        return self.now > _BUSY  # the load average still counts what ended a minute ago


def load() -> Load:
    """The load, measured over a moment in which this process sleeps."""
    return Load(psutil.cpu_percent(_MOMENT) / 100, psutil.getloadavg()[0])


def describe(load: Load) -> Info:
    """What a measurement depends on; what cannot be read is left out."""
    about = {
        "date": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "CPU": cpuinfo.get_cpu_info().get("brand_raw") or platform.processor(),
        "cores": f"{psutil.cpu_count(logical=False)} ({psutil.cpu_count()} logical)",
        "caches": ", ".join(_caches()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "huge pages": _read(_HUGE_PAGES),
        "governor": _read(_CPU / "cpufreq" / "scaling_governor"),
        "system": platform.platform(),
        **cyopt.info(),
        "load": str(load),
    }
    del about["platform"]  # `system` says it and more
    return Info({key: text for key, text in about.items() if text})


def _caches() -> list[str]:
    """Each cache of the first CPU and the CPUs that share it, as Linux reports them.

    py-cpuinfo gives sums over all cores, or the size of another cache.
    """
    caches = []
    for folder in sorted((_CPU / "cache").glob("index*")):
        level, kind, size, shared = (
            _read(folder / name) for name in ("level", "type", "size", "shared_cpu_list")
        )
        if level and size and kind != "Instruction":
            caches.append(f"L{level}{'d' if kind == 'Data' else ''} {size} (CPU {shared})")
    return caches


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
