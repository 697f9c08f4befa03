# Included by _cpu.pyx: DLPack 1: the description of an array, and the table of functions by which a
# library's type gives it to C (github.com/dmlc/dlpack, include/dlpack/dlpack.h).

cdef extern from *:
    """
    #include <stdint.h>
    typedef struct { int32_t device_type, device_id; } cyopt_dl_device;
    typedef struct { uint8_t code, bits; uint16_t lanes; } cyopt_dl_dtype;
    typedef struct {
        void *data;
        cyopt_dl_device device;
        int32_t ndim;
        cyopt_dl_dtype dtype;
        int64_t *shape, *strides; /* in elements; NULL strides: dense in C order */
        uint64_t byte_offset;
    } cyopt_dl_tensor;
    typedef struct {
        struct { uint32_t major, minor; } version;
        void *previous, *allocate, *managed_from_object, *managed_to_object;
        int (*tensor_from_object)(void *object, cyopt_dl_tensor *to);
        int (*current_stream)(int32_t device_type, int32_t device_id, void **stream);
    } cyopt_dl_exchange;
    static int cyopt_dl_usable(const cyopt_dl_exchange *table)
    {
        return table->version.major == 1 && table->tensor_from_object && table->current_stream;
    }
    /* What describes an array besides its address, shape and strides. */
    static int64_t cyopt_dl_kind(const cyopt_dl_tensor *t)
    {
        return (int64_t)t->dtype.code << 56 | (int64_t)t->dtype.bits << 48
            | (int64_t)(t->dtype.lanes & 0xFF) << 40 | (int64_t)(t->ndim & 0xFF) << 32
            | (int64_t)(t->device.device_type & 0xFF) << 24 | (t->device.device_id & 0xFFFFFF);
    }
    """
    ctypedef struct cyopt_dl_device:
        int32_t device_type
    ctypedef struct cyopt_dl_dtype:
        uint8_t code, bits
        uint16_t lanes
    ctypedef struct cyopt_dl_tensor:
        void *data
        cyopt_dl_device device
        int32_t ndim
        cyopt_dl_dtype dtype
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef struct cyopt_dl_exchange:
        int (*tensor_from_object)(void *object, cyopt_dl_tensor *to)
        int (*current_stream)(int32_t device_type, int32_t device_id, void **stream) except -1
    bint cyopt_dl_usable(const cyopt_dl_exchange *table)
    int64_t cyopt_dl_kind(const cyopt_dl_tensor *t)

cdef enum:
    DL_CPU = 1          # device types
    DL_CUDA = 2
    DL_FLOAT = 2        # a code of dtypes
    MOST_AXES = 8
    MOST_NUMBERS = 1 + 2 * MOST_AXES
    DL_DEVICE = 0x7FFFFFFF  # the bits of the device in what `cyopt_dl_kind` gives
    TOO_LARGE = 1 << 24  # a float32 cannot count beyond it


cdef object _array_of(cyopt_dl_tensor *tensor, object owner):
    """A NumPy array over the memory of a tensor, which keeps its owner alive; None if these are not
    numbers that a step takes, or not in memory that it may use."""
    cdef cnp.npy_intp shape[MOST_AXES]
    cdef cnp.npy_intp strides[MOST_AXES]
    cdef int d, itemsize = tensor.dtype.bits // 8
    if (not tensor.data  # NumPy would allocate
            or tensor.device.device_type != DL_CPU or tensor.dtype.code != DL_FLOAT
            or tensor.dtype.lanes != 1 or itemsize not in (4, 8)
            or tensor.ndim > MOST_AXES or (tensor.ndim and not tensor.strides)):
        return None
    for d in range(tensor.ndim):
        shape[d] = tensor.shape[d]
        strides[d] = <cnp.npy_intp>(itemsize * <size_t>tensor.strides[d])  # without overflow
    array = cnp.PyArray_New(
        cnp.ndarray, tensor.ndim, shape, cnp.NPY_FLOAT32 if itemsize == 4 else cnp.NPY_FLOAT64,
        strides, <char *>tensor.data + tensor.byte_offset, 0, cnp.NPY_ARRAY_WRITEABLE, None)
    cnp.set_array_base(array, owner)
    return array


cdef bint _described(
        const cyopt_dl_tensor *tensor, int64_t *address, int64_t *numbers, size_t *n) noexcept:
    """The address of an array, and the numbers that describe it; False if they are too many, or if
    strides are not given."""
    cdef int d
    if tensor.ndim > MOST_AXES or (tensor.ndim and not tensor.strides):
        return False
    address[0] = <int64_t>tensor.data + <int64_t>tensor.byte_offset
    numbers[0] = cyopt_dl_kind(tensor)
    for d in range(tensor.ndim):
        numbers[1 + 2 * d], numbers[2 + 2 * d] = tensor.shape[d], tensor.strides[d]
    n[0] = 1 + 2 * tensor.ndim
    return True


@cython.final
cdef class DLPackTable:
    """The table of DLPack functions of a type of arrays."""
    cdef cyopt_dl_exchange *_table

    def __init__(self):
        raise TypeError("it is made by DLPackTable.of")

    @staticmethod
    def of(capsule):
        """The table in a type's `__dlpack_c_exchange_api__`; None if it lacks what is used here."""
        cdef DLPackTable made = DLPackTable.__new__(DLPackTable)
        made._table = <cyopt_dl_exchange *>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        return made if cyopt_dl_usable(made._table) else None

    def stream(self, int32_t device):
        """The handle of the library's current stream on a GPU."""
        cdef void *handle = NULL
        self._table.current_stream(DL_CUDA, device, &handle)
        return <uintptr_t>handle

    def arrays(self, list tensors):
        """Tensors of real numbers in host memory as NumPy arrays over the same memory; None if one
        is anything else."""
        cdef cyopt_dl_tensor tensor
        cdef list arrays = []
        for value in tensors:
            if not self.read(value, &tensor):
                return None
            array = _array_of(&tensor, value)
            if array is None:
                return None
            arrays.append(array)
        return arrays

    def integers(self, list tensors):
        """The whole parts of 0-d float32 tensors in host memory, none negative; None if one is
        anything else."""
        cdef list found = []
        cdef float *number
        for value in tensors:
            number = self._number(value)
            if number == NULL or not 0 <= number[0] < TOO_LARGE:
                return None
            found.append(<int64_t>number[0])
        return found

    def count(self, list tensors):
        """Add 1 to 0-d float32 tensors in host memory; False, with nothing done, if one is anything
        else."""
        for value in tensors:
            if self._number(value) == NULL:
                return False
        for value in tensors:
            self._number(value)[0] += 1
        return True

    cdef float *_number(self, value) noexcept:
        """The address of the number of a 0-d float32 tensor in host memory; NULL for all else."""
        cdef cyopt_dl_tensor tensor
        cdef char *number
        if not self.read(value, &tensor):
            return NULL
        if (tensor.ndim or not tensor.data or tensor.device.device_type != DL_CPU
                or tensor.dtype.code != DL_FLOAT or tensor.dtype.bits != 32
                or tensor.dtype.lanes != 1):
            return NULL
        number = <char *>tensor.data + tensor.byte_offset
        return <float *>number if <uintptr_t>number % sizeof(float) == 0 else NULL

    cdef bint read(self, object value, cyopt_dl_tensor *tensor) noexcept:
        """Describe an array; False if the table cannot."""
        if self._table.tensor_from_object(<void *>value, tensor) != 0:
            PyErr_Clear()
            return False
        return True

    cdef bint look(self, object value, int64_t *address, int64_t *numbers, size_t *n) noexcept:
        """The address of an array, and what else describes it; False if the table cannot say."""
        cdef cyopt_dl_tensor tensor
        return self.read(value, &tensor) and _described(&tensor, address, numbers, n)
