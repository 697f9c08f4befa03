/* Copies a gradient whose strides or type a kernel cannot read, in the parameter's element order,
 * into a tile that stays in cache; and sets gradients to zero. */
#include "internal.h"

#include <string.h>

#define MAX_NDIM 64 /* NumPy's limit */

/* What is done with n elements of a row, `stride` bytes apart; returns where the next ones go in
 * the tile. */
typedef char *row_action(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride);

/* Inlined with a constant size, so that memcpy and memset become one store. */
static inline char *copy(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride, ptrdiff_t size)
{
    if (stride == size)
        memcpy(tile, row, (size_t)(n * size));
    else
        for (ptrdiff_t i = 0; i < n; i++)
            memcpy(tile + i * size, row + i * stride, (size_t)size);
    return tile + n * size;
}

static inline char *clear(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride, ptrdiff_t size)
{
    if (stride == size)
        memset(row, 0, (size_t)(n * size));
    else
        for (ptrdiff_t i = 0; i < n; i++)
            memset(row + i * stride, 0, (size_t)size);
    return tile;
}

static char *copy_f32(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride)
{
    return copy(tile, row, n, stride, 4);
}

static char *copy_f64(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride)
{
    return copy(tile, row, n, stride, 8);
}

static char *clear_f32(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride)
{
    return clear(tile, row, n, stride, 4);
}

static char *clear_f64(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride)
{
    return clear(tile, row, n, stride, 8);
}

static char *round_to_f32(char *tile, char *row, ptrdiff_t n, ptrdiff_t stride)
{
    float *to = (float *)(void *)tile;
    for (ptrdiff_t i = 0; i < n; i++)
        to[i] = (float)*(const double *)(void *)(row + i * stride);
    return tile + 4 * n;
}

static void each_row(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n,
                     row_action *action, char *tile)
{
    const ptrdiff_t *shape = array->grad_shape, *strides = array->grad_strides;
    const int last = array->grad_ndim - 1;
    ptrdiff_t index[MAX_NDIM];
    char *row = array->grad;
    if (array->grad_ndim == 0) {
        const ptrdiff_t itemsize = array->grad_dtype == CYOPT_FLOAT64 ? 8 : 4;
        action(tile, row + first * itemsize, n, itemsize);
        return;
    }
    for (int d = last; d >= 0; d--) {
        index[d] = first % shape[d];
        first /= shape[d];
        row += index[d] * strides[d];
    }
    while (n > 0) {
        const ptrdiff_t rest = shape[last] - index[last];
        const ptrdiff_t count = n < rest ? n : rest;
        tile = action(tile, row, count, strides[last]);
        n -= count;
        /* To the start of the next row, carrying like an odometer. */
        row -= index[last] * strides[last];
        index[last] = 0;
        for (int d = last - 1; d >= 0; d--) {
            if (shape[d] == 1)
                continue; /* its stride may be anything */
            row += strides[d];
            if (++index[d] < shape[d])
                break;
            row -= shape[d] * strides[d];
            index[d] = 0;
        }
    }
}

const void *cyopt_gather(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n, void *tile)
{
    const int wide = array->grad_dtype == CYOPT_FLOAT64, cast = array->grad_dtype != array->dtype;
    if (array->grad_ndim == 0 && !cast)
        return (const char *)array->grad + first * (wide ? 8 : 4);
    each_row(array, first, n, cast ? round_to_f32 : wide ? copy_f64 : copy_f32, tile);
    return tile;
}

void cyopt_clear(const struct cyopt_array *array, ptrdiff_t first, ptrdiff_t n)
{
    each_row(array, first, n, array->grad_dtype == CYOPT_FLOAT64 ? clear_f64 : clear_f32, NULL);
}
