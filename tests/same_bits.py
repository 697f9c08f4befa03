"""Exact comparison, for the tests."""

import numpy as np

UINT = {4: np.uint32, 8: np.uint64}


def same_bits(a, b):
    """Equal bit for bit, signs of zeros included; a NaN equals any NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    nan = np.isnan(a)
    bits = UINT[a.itemsize]
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(
        np.ascontiguousarray(a).view(bits)[~nan], np.ascontiguousarray(b).view(bits)[~nan]
    )


def same_optimizers(a, b):
    """Two optimizers hold the same state, bit for bit, and the same counters."""
    same_states(a.state_dict(), b.state_dict())


def same_states(ours, theirs):
    """The same of what `state_dict` gave."""
    assert ours["steps"] == theirs["steps"]
    assert list(ours["state"]) == list(theirs["state"])
    for name, entry in ours["state"].items():
        for key, value in entry.items():
            other = theirs["state"][name][key]
            same = value == other if key == "step" else same_bits(value, other)
            assert same, f"{key} of {name} differs"
