"""The limits of a control group: of CPUs, and of memory."""

import pytest

from cyopt.cgroup import _read, cgroup_cpus, cgroup_memory


def cgroup(tmp_path, membership, **files):
    """Files of a made-up cgroup file system; `a/b` is written `a__b`. The arguments to read it."""
    root, own = tmp_path / "cgroup", tmp_path / "self"
    for name, text in files.items():
        path = root.joinpath(*name.replace("_dot_", ".").split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own.write_text(membership)
    return str(root), str(own)


V1_FILES = {"cpu__cpu_dot_cfs_quota_us": "250000\n", "cpu__cpu_dot_cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("", {}, 0),
        # version 2: a container sees its own group as the root
        ("0::/\n", {"cpu_dot_max": "max 100000\n"}, 0),
        ("0::/\n", {"cpu_dot_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_dot_max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu_dot_max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu_dot_max": "nonsense\n"}, 0),
        # a service of systemd: its own group lies below, and each group above may be narrower
        ("0::/a/b\n", {"a__b__cpu_dot_max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a__b__cpu_dot_max": "max 1\n", "a__cpu_dot_max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"a__b__cpu_dot_max": "9 1\n", "a__cpu_dot_max": "4 1\n"}, 4),
        ("0::/a\n", {"b__cpu_dot_max": "1 1\n"}, 0),
        # version 1
        ("4:cpu,cpuacct:/\n", V1_FILES, 3),
        ("4:cpu,cpuacct:/\n", {**V1_FILES, "cpu__cpu_dot_cfs_quota_us": "-1\n"}, 0),
        # a container of version 1: the path is the host's and does not exist inside
        ("4:cpu,cpuacct:/docker/1234\n", V1_FILES, 3),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {
                **V1_FILES,
                "cpu__a__cpu_dot_cfs_quota_us": "100000\n",
                "cpu__a__cpu_dot_cfs_period_us": "100000\n",
            },
            1,
        ),
    ],
)
def test_the_quota_of_a_cgroup_is_read(tmp_path, membership, files, cpus):
    assert cgroup_cpus(*cgroup(tmp_path, membership, **files)) == cpus


def test_a_cgroup_may_have_any_name(tmp_path):
    (tmp_path / "cgroup").write_bytes(b"0::/caf\xe9\n")
    assert _read(str(tmp_path / "cgroup")).startswith("0::/caf")


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/a\n", {"a__memory.max": "max", "a__memory.current": "70"}, None),
        ("0::/a\n", {"a__memory.max": "100", "a__memory.current": "70"}, 30),
        ("0::/a\n", {"a__memory.max": "100", "a__memory.current": "130"}, 0),
        (
            "0::/a\n",
            {
                "a__memory.max": "100",
                "a__memory.current": "70",
                "a__memory.stat": "anon 9\ninactive_file 25\nactive_file 4\n",
            },
            55,
        ),
        (
            "0::/a/b\n",
            {
                "a__memory.max": "100",
                "a__memory.current": "90",
                "a__b__memory.max": "50",
                "a__b__memory.current": "20",
            },
            10,
        ),
        (
            "4:memory:/a\n",
            {
                "memory__a__memory.limit_in_bytes": "100\n",
                "memory__a__memory.usage_in_bytes": "70\n",
                "memory__a__memory.stat": "total_inactive_file 5\n",
            },
            35,
        ),
        ("4:cpu:/a\n", {"memory__a__memory.limit_in_bytes": "100"}, None),
        ("", {}, None),
    ],
)
def test_the_memory_that_a_cgroup_still_has_is_read(tmp_path, membership, files, free):
    assert cgroup_memory(*cgroup(tmp_path, membership, **files)) == free
