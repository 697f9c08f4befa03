# Included by _cpu.pyx: where arrays lie that are not NumPy's, in tens of nanoseconds each.

# DLPack 1: what an array is, and the table of functions by which a library's type tells C of it
# (github.com/dmlc/dlpack, include/dlpack/dlpack.h).
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
    /* What an array is, but for its address, shape and strides. */
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
    CPU = 1             # DLPack's numbers of device types, and of a type
    CUDA = 2
    FLOAT = 2
    MOST_AXES = 8
    MOST_NUMBERS = 1 + 2 * MOST_AXES
    TOO_LARGE = 1 << 30   # a count that a float32 has missed for long


cdef object _array_of(cyopt_dl_tensor *tensor, object owner):
    """A NumPy array of the memory of a tensor, which keeps its owner alive; None where NumPy has
    not such numbers, or there is no memory that it may use."""
    cdef cnp.npy_intp shape[MOST_AXES]
    cdef cnp.npy_intp strides[MOST_AXES]
    cdef int d, itemsize = tensor.dtype.bits // 8
    if (not tensor.data  # NumPy would allocate
            or tensor.device.device_type != CPU or tensor.dtype.code != FLOAT
            or tensor.dtype.lanes != 1 or itemsize not in (4, 8)
            or tensor.ndim > MOST_AXES or (tensor.ndim and not tensor.strides)):
        return None
    for d in range(tensor.ndim):
        shape[d], strides[d] = tensor.shape[d], itemsize * tensor.strides[d]
    array = cnp.PyArray_New(
        cnp.ndarray, tensor.ndim, shape, cnp.NPY_FLOAT32 if itemsize == 4 else cnp.NPY_FLOAT64,
        strides, <char *>tensor.data + tensor.byte_offset, 0, cnp.NPY_ARRAY_WRITEABLE, None)
    cnp.set_array_base(array, owner)
    return array


cdef class Exchange:
    """The table of functions of a type of arrays."""
    cdef cyopt_dl_exchange *_table

    def __init__(self):
        raise TypeError("it is made by Exchange.of")

    @staticmethod
    def of(capsule):
        """That of a type's `__dlpack_c_exchange_api__`; None where it lacks what is used here."""
        cdef Exchange made = Exchange.__new__(Exchange)
        made._table = <cyopt_dl_exchange *>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        return made if cyopt_dl_usable(made._table) else None

    def stream(self, int32_t device):
        """The handle of the library's current stream on a GPU."""
        cdef void *handle = NULL
        self._table.current_stream(CUDA, device, &handle)
        return <uintptr_t>handle

    def arrays(self, list tensors):
        """Tensors of real numbers in host memory as NumPy's arrays of the same memory; None if one
        is anything else."""
        cdef cyopt_dl_tensor tensor
        cdef list arrays = []
        for value in tensors:
            if self._table.tensor_from_object(<void *>value, &tensor) != 0:
                PyErr_Clear()
                return None
            array = _array_of(&tensor, value)
            if array is None:
                return None
            arrays.append(array)
        return arrays

    def integers(self, list tensors):
        """The whole parts of float32 tensors of one number from 0 in host memory; None if one is
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
        """Add one to float32 tensors of one number in host memory; False, with nothing done, where
        one is anything else."""
        for value in tensors:
            if self._number(value) == NULL:
                return False
        for value in tensors:
            self._number(value)[0] += 1
        return True

    cdef float *_number(self, value) except? NULL:
        """Where a float32 tensor of one number in host memory has it; NULL for anything else."""
        cdef cyopt_dl_tensor tensor
        if self._table.tensor_from_object(<void *>value, &tensor) != 0:
            PyErr_Clear()
            return NULL
        if (tensor.ndim or not tensor.data or tensor.device.device_type != CPU
                or tensor.dtype.code != FLOAT or tensor.dtype.bits != 32):
            return NULL
        return <float *>(<char *>tensor.data + tensor.byte_offset)

    cdef bint look(self, object value, int64_t *address, int64_t *numbers, size_t *n):
        """Where an array lies, and what else it is; False where that cannot be told so."""
        cdef cyopt_dl_tensor tensor
        cdef int d
        if self._table.tensor_from_object(<void *>value, &tensor) != 0:
            PyErr_Clear()
            return False
        if tensor.ndim > MOST_AXES or (tensor.ndim and not tensor.strides):
            return False
        address[0] = <int64_t>tensor.data + <int64_t>tensor.byte_offset
        numbers[0] = cyopt_dl_kind(&tensor)
        for d in range(tensor.ndim):
            numbers[1 + 2 * d], numbers[2 + 2 * d] = tensor.shape[d], tensor.strides[d]
        n[0] = 1 + 2 * tensor.ndim
        return True


cdef bint _still_has(value, tuple shape) except -1:
    """Whether an array that can only have been reshaped has this shape, as it once had.

    Its size is what it was, so that of up to two axes the first tells all. CuPy makes a tuple of a
    shape in 60 ns, and tells both numbers in 10.
    """
    cdef ptrdiff_t n = len(shape)
    if value.ndim != n:
        return False
    if n > 2 or 0 in shape:
        return value.shape == shape
    return n == 0 or len(value) == shape[0]


@cython.final
cdef class Places:
    """Where arrays lie, and what they are: to be found at other addresses as the same.

    `library_of` has for a type its `Exchange` or None, a function that tells whether an array's
    numbers are not those in its memory, or None, and for types without an `Exchange` the name of
    an attribute or a function that gives a tuple: the address, then all else that an array is; at
    last whether an array, while it is the same object, can be reshaped and nothing else: its shape
    then is second in the tuple. None stands where no array is.
    """
    cdef readonly list forms        # of each array: None, bytes of the numbers, or the tuple
    cdef public cnp.ndarray addresses
    cdef list _first                # weak references to those that can only be reshaped
    cdef object _library_of
    # Of the type that was looked at last.
    cdef object _type, _lazy, _identity
    cdef Exchange _exchange
    cdef bint _only_reshaped

    def __init__(self, list values, library_of):
        cdef int64_t address
        cdef int64_t numbers[MOST_NUMBERS]
        self._library_of = library_of
        self.forms, self._first = [], []
        self.addresses = np.empty(len(values), np.int64)
        for i, value in enumerate(values):
            self.forms.append(self._form(value, &address, numbers))
            self.addresses[i] = address
            lasts = value is not None and self._only_reshaped
            self._first.append(PyWeakref_NewRef(value, None) if lasts else None)

    def find(self, list values):
        """The addresses of arrays that are as these; None if one is not. If all lie where these
        do, it is the same object as `addresses`."""
        cdef ptrdiff_t i, n = len(self.forms)
        cdef int64_t address
        cdef int64_t numbers[MOST_NUMBERS]
        cdef cnp.ndarray before = self.addresses, found = before
        cdef int64_t *known = <int64_t *>cnp.PyArray_DATA(before)
        if len(values) != n:
            return None
        for i in range(n):
            if not self._is_alike(values[i], i, &address, numbers):
                return None
            if address != known[i] and found is before:
                found = before.copy()
            if found is not before:
                (<int64_t *>cnp.PyArray_DATA(found))[i] = address
        return found

    cdef bint _is_alike(
            self, value, ptrdiff_t i, int64_t *address, int64_t *numbers) except -1:
        cdef size_t n
        cdef ptrdiff_t j
        cdef tuple identity
        form = self.forms[i]
        address[0] = 0
        if value is None or form is None:
            return value is form
        self._choose(type(value))
        if type(form) is bytes:
            return (
                self._look(value, address, numbers, &n)
                and <size_t>PyBytes_GET_SIZE(form) == n * sizeof(int64_t)
                and memcmp(numbers, PyBytes_AS_STRING(form), n * sizeof(int64_t)) == 0
            )
        if self._only_reshaped and self._is_first(value, i):
            address[0] = (<tuple>form)[0]
            return _still_has(value, (<tuple>form)[1])
        identity = self._ask(value)
        address[0] = identity[0]
        if identity is form:
            return True
        if len(identity) != len(<tuple>form):
            return False
        for j in range(1, len(identity)):
            known = (<tuple>form)[j]
            if identity[j] is not known and identity[j] != known:
                return False
        return True

    cdef bint _is_first(self, value, ptrdiff_t i) except -1:
        """Whether it is the object that was looked at first."""
        cdef PyObject *first = NULL
        if self._first[i] is None:
            return False
        PyWeakref_GetRef(self._first[i], &first)
        Py_XDECREF(first)
        return first == <PyObject *>value

    cdef _form(self, value, int64_t *address, int64_t *numbers):
        cdef size_t n
        cdef tuple identity
        address[0] = 0
        if value is None:
            return None
        self._choose(type(value))
        if self._look(value, address, numbers, &n):
            return PyBytes_FromStringAndSize(<char *>numbers, n * sizeof(int64_t))
        identity = self._ask(value)
        address[0] = identity[0]
        return identity

    cdef bint _look(self, value, int64_t *address, int64_t *numbers, size_t *n) except -1:
        return (
            self._exchange is not None
            and self._exchange.look(value, address, numbers, n)
            and (self._lazy is None or not self._lazy(value))
        )

    cdef tuple _ask(self, value):
        if type(self._identity) is str:
            return getattr(value, self._identity)
        return self._identity(value)

    cdef int _choose(self, type_) except -1:
        if type_ is not self._type:
            self._type = None
            self._exchange, self._lazy, self._identity, \
                self._only_reshaped = self._library_of(type_)
            self._type = type_
        return 0
