/* One step over lists of any sizes, offsets, layouts, types and options, against the same step over
 * aligned and dense copies, on one thread, by the baseline's kernels: all bits must be equal. Every
 * array ends where its memory does, so that AddressSanitizer sees an access beyond it.
 *
 * With libFuzzer: clang -fsanitize=fuzzer,address,undefined. Without it main() tries as many random
 * inputs as its argument says, or those of the files that it is given. */
#include <cyopt.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ARRAYS 6
#define GAP 0x5A /* bytes of a strided gradient's memory that are not its elements */

struct input {
    const uint8_t *data;
    size_t left;
};

/* What the input says of an array. */
struct plan {
    ptrdiff_t rows, columns;
    int dtype, cast, has_grad, strided, average, begins, zero, set;
    int row_step, column_step; /* elements; negative: backwards */
    unsigned offsets[6]; /* of param, state, average, gradient: elements behind an alignment */
    uint32_t seed;
};

struct arrays {
    void *memory[6];
    struct cyopt_array array;
    ptrdiff_t shape[2], strides[2], grad_bytes;
};

static unsigned take(struct input *in, unsigned limit)
{
    unsigned value = 0;
    for (unsigned range = 1; range < limit && in->left; range *= 256, in->left--)
        value = value * 256 + *in->data++;
    return value % limit;
}

/* Mostly ordinary numbers; what is odd in one type is in both. */
static double number(uint32_t *seed)
{
    static const double odd[] = {0.0, -0.0, INFINITY, NAN, 1e38, -1e-38, 1e-42, 1e30};
    *seed = *seed * 1664525u + 1013904223u;
    if (*seed >> 24 == 0)
        return odd[*seed >> 8 & 7];
    return (float)((double)(*seed >> 8) / (1 << 23) - 1.0);
}

static void put(void *to, ptrdiff_t i, int dtype, double x)
{
    if (dtype == CYOPT_FLOAT64)
        ((double *)to)[i] = x;
    else
        ((float *)to)[i] = (float)x;
}

static int item_bytes(int dtype)
{
    return dtype == CYOPT_FLOAT64 ? 8 : 4;
}

/* n numbers whose end is the end of the memory. */
static void *filled(void **memory, ptrdiff_t n, int dtype, unsigned offset, uint32_t seed)
{
    const size_t before = offset * (size_t)item_bytes(dtype);
    *memory = malloc(before + (size_t)n * (size_t)item_bytes(dtype) + 1);
    char *start = (char *)*memory + before;
    for (ptrdiff_t i = 0; i < n; i++)
        put(start, i, dtype, number(&seed));
    return start;
}

static void fill_state(struct arrays *a, const struct plan *p, int plain)
{
    const ptrdiff_t n = p->rows * p->columns;
    void *parts[5];
    for (int j = 0; j < 5; j++)
        parts[j] = filled(&a->memory[j], n, p->dtype, plain ? 0 : p->offsets[j], p->seed + j);
    for (ptrdiff_t i = 0; i < n; i++) /* second moments are not negative */
        for (int j = 1; j < 4; j++)
            if (p->dtype == CYOPT_FLOAT64)
                ((double *)parts[j])[i] = fabs(((double *)parts[j])[i]);
            else
                ((float *)parts[j])[i] = fabsf(((float *)parts[j])[i]);
    a->array.param = parts[0];
    memcpy(a->array.state, &parts[1], 3 * sizeof(void *));
    a->array.average = p->average ? parts[4] : NULL;
}

/* The gradient as the plan has it; or, for the plain one, dense and of the parameter's type. */
static void fill_grad(struct arrays *a, const struct plan *p, int plain)
{
    const int dtype = plain || !p->cast ? p->dtype : CYOPT_FLOAT64;
    const ptrdiff_t row = plain || !p->strided ? p->columns : p->row_step;
    const ptrdiff_t column = plain || !p->strided ? 1 : p->column_step;
    const ptrdiff_t rows = p->rows, columns = p->columns, size = item_bytes(dtype);
    const ptrdiff_t reach = (rows - 1) * labs(row) + (columns - 1) * labs(column) + 1;
    const ptrdiff_t offset = plain ? 0 : p->offsets[5];
    const ptrdiff_t first =
        (row < 0 ? (1 - rows) * row : 0) + (column < 0 ? (1 - columns) * column : 0);
    uint32_t seed = p->seed + 5;
    a->grad_bytes = rows * columns > 0 ? (offset + reach) * size : 0;
    a->memory[5] = malloc((size_t)a->grad_bytes + 1);
    memset(a->memory[5], GAP, (size_t)a->grad_bytes);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < columns; c++)
            put(a->memory[5], offset + first + r * row + c * column, dtype, number(&seed));
    a->array.grad = p->has_grad ? (char *)a->memory[5] + (offset + first) * size : NULL;
    a->array.grad_dtype = dtype;
    if (!plain && p->strided) {
        a->shape[0] = rows, a->shape[1] = columns;
        a->strides[0] = row * size, a->strides[1] = column * size;
        a->array.grad_ndim = 2;
        a->array.grad_shape = a->shape;
        a->array.grad_strides = a->strides;
    }
}

static void build(struct arrays *a, const struct plan *p, int plain)
{
    memset(a, 0, sizeof *a);
    a->array.size = p->rows * p->columns;
    a->array.dtype = p->dtype;
    a->array.set = p->set;
    a->array.average_begins = p->begins;
    a->array.zero_grad = p->zero;
    fill_state(a, p, plain);
    fill_grad(a, p, plain);
}

static struct plan read_plan(struct input *in, int n_sets)
{
    struct plan p = {.rows = take(in, 4) ? take(in, 70) : 1, .columns = take(in, 400)};
    if (p.rows == 1 && take(in, 4) == 0)
        p.columns = take(in, 20000);
    p.dtype = (int)take(in, 2);
    p.cast = p.dtype == CYOPT_FLOAT32 && take(in, 3) == 0;
    p.has_grad = take(in, 6) != 0;
    p.strided = take(in, 3) == 0;
    p.average = take(in, 3) == 0;
    p.begins = (int)take(in, 2);
    p.zero = take(in, 3) == 0;
    p.set = (int)take(in, (unsigned)n_sets);
    /* Rows within columns or columns within rows, so that no two elements are one. */
    const int inner = 1 + (int)take(in, 3), spare = (int)take(in, 3);
    const int by_row = (int)take(in, 2);
    p.column_step = by_row ? inner : (int)p.rows * inner + spare;
    p.row_step = by_row ? (int)p.columns * inner + spare : inner;
    p.column_step *= take(in, 2) ? -1 : 1;
    p.row_step *= take(in, 2) ? -1 : 1;
    for (int j = 0; j < 6; j++)
        p.offsets[j] = take(in, 17);
    p.seed = take(in, 1u << 24);
    return p;
}

static void read_scalars(struct input *in, struct cyopt_scalars *scalars)
{
    struct cyopt_hyper h = {.rule = (int)take(in, CYOPT_N_RULES), .decay = (int)take(in, 3)};
    h.momentum_form = (int)take(in, 3);
    h.maximize = (int)take(in, 2);
    h.eps_inside_sqrt = (int)take(in, 2);
    h.eps_hat = (int)take(in, 2);
    h.bias_correction = (int)take(in, 2);
    h.lr = take(in, 100) / 100.0;
    h.weight_decay = take(in, 2) ? 0.1 : 0.0;
    h.grad_scale = 1.0 + take(in, 3);
    h.momentum = h.beta1 = h.ema = 0.9;
    h.beta2 = 0.99;
    h.eps = 1e-8;
    h.step_size = h.denom_scale = NAN;
    h.clip_norm = take(in, 2) ? 0.0 : 0.5;
    h.clip_eps = take(in, 2) ? 0.0 : 1e-6;
    h.clip_value = take(in, 3) ? 0.0 : 0.25;
    h.clip_per_array = (int)take(in, 2);
    h.skip_nonfinite = take(in, 4) == 0;
    cyopt_prepare(&h, 1 + take(in, 1000), scalars);
}

static struct cyopt_report run(struct arrays *list, ptrdiff_t n, const struct cyopt_scalars *sets,
                               const struct cyopt_config *config, int want_norms)
{
    struct cyopt_array arrays[MAX_ARRAYS];
    for (ptrdiff_t i = 0; i < n; i++)
        arrays[i] = list[i].array;
    const size_t chunks = (size_t)cyopt_count_chunks(arrays, n);
    struct cyopt_report report = {.want_norms = want_norms};
    report.sums = malloc(2 * chunks * sizeof(double) + 1);
    cyopt_step(arrays, n, sets, config, &report);
    free(report.sums);
    return report;
}

static void fail(const char *what)
{
    fprintf(stderr, "differs: %s\n", what);
    abort();
}

/* A NaN equals any NaN. */
static void same(const void *a, const void *b, ptrdiff_t n, int dtype, const char *what)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        const double x = dtype == CYOPT_FLOAT64 ? ((double *)a)[i] : ((float *)a)[i];
        const double y = dtype == CYOPT_FLOAT64 ? ((double *)b)[i] : ((float *)b)[i];
        if (memcmp(&x, &y, sizeof x) != 0 && !(isnan(x) && isnan(y)))
            fail(what);
    }
}

/* Its elements are zero if they should be, else as they were; what lies between them is untouched.
 */
static void check_grad(const struct arrays *a, const struct plan *p)
{
    struct arrays fresh;
    build(&fresh, p, 0);
    if (p->has_grad && p->zero) {
        char *at = fresh.array.grad;
        const int size = item_bytes(fresh.array.grad_dtype);
        for (ptrdiff_t r = 0; r < p->rows; r++)
            for (ptrdiff_t c = 0; c < p->columns; c++)
                memset(at + size * (p->strided ? r * p->row_step + c * p->column_step
                                               : r * p->columns + c),
                       0, (size_t)size);
    }
    if (memcmp(fresh.memory[5], a->memory[5], (size_t)a->grad_bytes) != 0)
        fail("gradient");
    for (int j = 0; j < 6; j++)
        free(fresh.memory[j]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct cyopt_scalars sets[2];
    struct plan plans[MAX_ARRAYS];
    struct arrays list[MAX_ARRAYS], plain[MAX_ARRAYS];
    struct cyopt_config config, simple;
    cyopt_default_config(&config);
    config.grain = 1;
    config.flush_subnormals = (int)take(&in, 2);
    simple = config;
    config.num_threads = 1 + (int)take(&in, 4);
    config.isa += (int)take(&in, 3);
    while (!cyopt_isa_name(config.isa))
        config.isa--;
    simple.num_threads = 1;
    while (cyopt_isa_name(simple.isa + 1))
        simple.isa++;
    const int want_norms = take(&in, 3) == 0;
    for (int i = 0; i < 2; i++)
        read_scalars(&in, &sets[i]);
    const ptrdiff_t n = take(&in, MAX_ARRAYS + 1);
    for (ptrdiff_t i = 0; i < n; i++) {
        plans[i] = read_plan(&in, 2);
        build(&list[i], &plans[i], 0);
        build(&plain[i], &plans[i], 1);
    }
    const struct cyopt_report a = run(list, n, sets, &config, want_norms);
    const struct cyopt_report b = run(plain, n, sets, &simple, want_norms);
    if (a.skipped != b.skipped)
        fail("skipped");
    same(&a.grad_norm, &b.grad_norm, 1, CYOPT_FLOAT64, "norm of the gradients");
    same(&a.update_norm, &b.update_norm, 1, CYOPT_FLOAT64, "norm of the change");
    same(&a.param_norm, &b.param_norm, 1, CYOPT_FLOAT64, "norm of the parameters");
    for (ptrdiff_t i = 0; i < n; i++) {
        const struct cyopt_array *x = &list[i].array, *y = &plain[i].array;
        same(x->param, y->param, x->size, x->dtype, "parameter");
        for (int j = 0; j < CYOPT_MAX_STATE; j++)
            same(x->state[j], y->state[j], x->size, x->dtype, "state");
        if (x->average)
            same(x->average, y->average, x->size, x->dtype, "average");
        check_grad(&list[i], &plans[i]);
        for (int j = 0; j < 6; j++) {
            free(list[i].memory[j]);
            free(plain[i].memory[j]);
        }
    }
    return 0;
}

#ifndef CYOPT_LIBFUZZER
static long count_of(const char *text)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 0) {
        fprintf(stderr, "'%s': expected the number of inputs, then a seed\n", text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    uint8_t data[256];
    const long inputs = argc > 1 ? count_of(argv[1]) : 1000;
    srand(argc > 2 ? (unsigned)count_of(argv[2]) : 0);
    for (long i = 0; i < inputs; i++) {
        for (size_t j = 0; j < sizeof data; j++)
            data[j] = (uint8_t)(rand() >> 8);
        LLVMFuzzerTestOneInput(data, sizeof data);
    }
    printf("%ld inputs\n", inputs);
    return 0;
}
#endif
