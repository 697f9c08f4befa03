"""A GPU that is this CPU: memory of the host, and kernels of `kernels_on_host`.

All of `cyopt.cuda` runs on it but `driver`, in whose place it stands.
"""

import ctypes

import kernels_on_host
import numpy as np

from cyopt import _cpu
from cyopt.cuda import cache, driver

CU_LAUNCH_KERNEL = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    *[ctypes.c_uint] * 7,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class HostArray:
    """An array of this GPU, with the interface that those of other libraries have."""

    def __init__(self, array, stream=None, device=0):
        self.array, self.stream, self.device = array, stream, device

    @property
    def __cuda_array_interface__(self):
        interface = self.array.__array_interface__
        own = {"version": 3, "stream": self.stream, "mask": None}
        return {name: interface[name] for name in ("shape", "typestr", "data", "strides")} | own


class Memory:
    def __init__(self, nbytes):
        room = np.full(nbytes + 256, 0xAB, np.uint8)  # as memory that was used before
        self._array = room[-room.ctypes.data % 256 :][:nbytes]
        self.address = self._array.ctypes.data


class Pinned:
    def __init__(self, shape):
        self.array = np.zeros(shape, np.int64)
        self.address = self.array.ctypes.data


class Device:
    """As `cyopt.cuda.driver.Device`; `log` has the names of what was done."""

    compute_capability = kernels_on_host.COMPUTE_CAPABILITY

    def __init__(self, ordinal):
        self.ordinal, self.log = ordinal, []
        self.graph = None  # a list of calls while they are captured
        self._sources, self._entry = [], CU_LAUNCH_KERNEL(self._start)
        self._raised = None  # by a kernel

    def __enter__(self):
        pass

    def __exit__(self, *exception):
        pass

    def allocate(self, nbytes):
        return Memory(nbytes)

    def clear(self, address, nbytes):
        view(address, nbytes)[:] = 0

    def clear_call(self, address, nbytes, stream):
        return self._later, ("clear", stream, self.clear, address, nbytes)

    def wait(self):
        if self.graph is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    def upload(self, address, host):
        self.wait()
        copy(address, host.ctypes.data, host.nbytes)

    def download(self, host, address):
        self.wait()
        copy(host.ctypes.data, address, host.nbytes)

    def copy(self, target, source, nbytes):
        self.wait()
        copy(target, source, nbytes)

    def pinned(self, shape):
        return Pinned(shape)

    def upload_async(self, address, pinned, stream):
        self._do("upload", stream, copy, address, pinned.address, pinned.array.nbytes)

    def mark(self, stream):
        self.wait()  # an event of a capture cannot be asked
        return lambda: True

    def copy_call(self, target, source, nbytes, stream):
        return self._later, ("copy", stream, copy, target, source, nbytes)

    def compiled_copy_call(self, target, source, nbytes):
        return self._later, ("copy", 1, copy, target, source, nbytes)

    def _later(self, *args):
        """A call that may be made later: by the `_do` of that time."""
        self._do(*args)
        return 0

    def is_capturing(self, stream):
        return self.graph is not None

    def capture(self, function, *args, **kwargs):
        """What a function makes the GPU do, not done yet; and what it returns."""
        self.graph = []
        try:
            return self.graph, function(*args, **kwargs)
        finally:
            self.graph = None

    def order(self, later, earlier):
        self.log.append(("order", later, earlier))

    def launch(self, source, *args):
        if source not in self._sources:
            self._sources.append(source)
        kernel = self._sources.index(source)
        entry = ctypes.cast(self._entry, ctypes.c_void_p).value, self._refuse
        return _cpu.Launch(entry, kernel, *args)

    def _start(self, kernel, blocks, _y, _z, threads, *rest):
        *_, stream, arguments, _extra = rest
        source = self._sources[kernel or 0]
        function, numbers = kernels_on_host.kernel(source), arguments_of(source, arguments)
        try:
            self._do("launch", stream, function, blocks, threads, *numbers)
        except BaseException as error:
            self._raised = error
            return 1
        return 0

    def _refuse(self, status):
        raise self._raised

    def _do(self, name, stream, function, *args):
        self.log.append((name, stream))
        if self.graph is None:
            function(*args)
        else:
            self.graph.append((function, args))


def replay(graph):
    """Do what was captured, with what is in the memory now."""
    for function, args in graph:
        function(*args)


def view(address, nbytes):
    place = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}
    return np.asarray(type("Place", (), {"__array_interface__": place})())


def copy(target, source, nbytes):
    view(target, nbytes)[:] = view(source, nbytes)


def names(log):
    """What was done, in its order."""
    return [entry[0] for entry in log]


def arguments_of(source, places):
    """The arguments of a kernel, from the addresses that `cuLaunchKernel` gets."""
    n, real = len(source.addresses), np.dtype(source.dtype)
    dtypes = [np.dtype(np.int64)] * n + [real] * (len(source.scalars) * source.sets)
    return [
        np.frombuffer(ctypes.string_at(places[i], dtype.itemsize), dtype)[0]
        for i, dtype in enumerate(dtypes)
    ]


def stand_in(monkeypatch):
    """Put this GPU in place of the driver's; returns it."""
    gpu = Device(0)
    monkeypatch.setattr(driver, "device", lambda ordinal: gpu)
    monkeypatch.setattr(driver, "ordinal_of", lambda address: 0)
    monkeypatch.setattr(driver, "current_ordinal", lambda: 0)
    monkeypatch.setattr(cache, "kernel", lambda source, ordinal: source)
    return gpu
