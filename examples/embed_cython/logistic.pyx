# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Logistic regression whose whole training, with Adam's steps, is one loop without the GIL."""

import numpy as np

from cyopt cimport (
    CYOPT_FLOAT64, CYOPT_RULE_adam, cyopt_api, cyopt_array, cyopt_config, cyopt_hyper, cyopt_import,
)
from libc.math cimport exp
from libc.string cimport memset

cdef const cyopt_api *api = cyopt_import()


def fit(const double[:, ::1] x, const double[::1] y, int steps, double lr=0.1):
    """The weights after so many steps from zero; y is 0 or 1 for each row of x."""
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"x has {x.shape[0]} rows, y has {y.shape[0]} numbers")
    weights = np.zeros(x.shape[1])
    cdef double[::1] w = weights, g = np.zeros_like(weights)
    cdef double[::1] exp_avg = np.zeros_like(weights), exp_avg_sq = np.zeros_like(weights)
    cdef cyopt_config config = api.config[0]  # what cyopt.set_num_threads and others have chosen
    cdef cyopt_hyper hyper
    cdef cyopt_array array
    cdef int t
    memset(&array, 0, sizeof(array))
    array.size, array.dtype, array.grad_dtype = w.shape[0], CYOPT_FLOAT64, CYOPT_FLOAT64
    array.param, array.grad = &w[0], &g[0]
    array.state[0], array.state[1] = &exp_avg[0], &exp_avg_sq[0]
    api.default_hyper(CYOPT_RULE_adam, &hyper)
    hyper.lr = lr
    with nogil:
        for t in range(1, steps + 1):
            gradient(x, y, w, g)
            api.update(&array, 1, &hyper, t, &config)
    return weights


cdef void gradient(const double[:, ::1] x, const double[::1] y, double[::1] w,
                   double[::1] g) noexcept nogil:
    """Put the gradient of the mean log loss into g."""
    cdef Py_ssize_t i, j
    cdef double z, error
    g[:] = 0.0
    for i in range(x.shape[0]):
        z = 0.0
        for j in range(x.shape[1]):
            z += x[i, j] * w[j]
        error = (1.0 / (1.0 + exp(-z)) - y[i]) / x.shape[0]
        for j in range(x.shape[1]):
            g[j] += error * x[i, j]
