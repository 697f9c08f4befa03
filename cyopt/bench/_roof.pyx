# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""How fast this machine moves bytes, by code that shares nothing with cyopt's loop and threads."""

from libc.string cimport memcpy


def copy(unsigned char[::1] target, const unsigned char[::1] source):
    """The C library's memcpy."""
    with nogil:
        memcpy(&target[0], &source[0], source.shape[0])


def triad(double[::1] a, const double[::1] b, const double[::1] c, double q):
    """a = b + q*c, the triad of McCalpin's STREAM benchmark."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(a.shape[0]):
            a[i] = b[i] + q * c[i]


def daxpy(double[::1] a, const double[::1] b, double q):
    """a = a + q*b, of BLAS: reads twice what it writes, and writes where it has read."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(a.shape[0]):
            a[i] = a[i] + q * b[i]


def read(const unsigned long long[::1] words):
    """The words' bitwise or: nothing is written, and the compiler may take many at once."""
    cdef Py_ssize_t i
    cdef unsigned long long seen = 0
    with nogil:
        for i in range(words.shape[0]):
            seen |= words[i]
    return seen
