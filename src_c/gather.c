/* Reads a strided gradient in the parameter's element order, into a tile that stays in cache. */
#include "kernels.h"

#include <string.h>

#define MAX_NDIM 64 /* NumPy's limit */

/* One row of the last dimension; a fixed itemsize makes memcpy one load and one store. */
static void copy_row(char *out, const char *in, ptrdiff_t n, ptrdiff_t stride, ptrdiff_t itemsize)
{
    if (stride == itemsize)
        memcpy(out, in, (size_t)(n * itemsize));
    else if (itemsize == 4)
        for (ptrdiff_t i = 0; i < n; i++)
            memcpy(out + 4 * i, in + i * stride, 4);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            memcpy(out + 8 * i, in + i * stride, 8);
}

void cyopt_gather(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n, void *out)
{
    const ptrdiff_t itemsize = array->dtype == CYOPT_FLOAT64 ? 8 : 4;
    const ptrdiff_t *shape = array->grad_shape, *strides = array->grad_strides;
    const int last = array->grad_ndim - 1;
    ptrdiff_t index[MAX_NDIM];
    const char *row = array->grad;
    for (int d = last; d >= 0; d--) {
        index[d] = first % shape[d];
        first /= shape[d];
        row += index[d] * strides[d];
    }
    for (char *to = out; n > 0;) {
        const ptrdiff_t rest = shape[last] - index[last];
        const ptrdiff_t count = n < rest ? n : rest;
        copy_row(to, row, count, strides[last], itemsize);
        to += count * itemsize;
        n -= count;
        /* To the start of the next row: carry as an odometer does. */
        row -= index[last] * strides[last];
        index[last] = 0;
        for (int d = last - 1; d >= 0; d--) {
            row += strides[d];
            if (++index[d] < shape[d])
                break;
            row -= shape[d] * strides[d];
            index[d] = 0;
        }
    }
}
