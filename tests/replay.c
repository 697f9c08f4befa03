/* Replays steps recorded from cyopt/rules.py and compares every bit; needs no Python:
 *
 *     replay FILE THREADS
 *
 * Of each step the file has a struct record and, of each of its arrays in turn, the size as int64_t
 * and two times N_STREAMS runs of that many numbers: what they are before the step, and after it.
 * tests/test_arm64.py writes it. */
#include "cyopt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ARRAYS 8

/* Streams that the rule does not use are there as well, and must stay as they are. */
enum { PARAM, GRAD, STATE, AVERAGE = STATE + CYOPT_MAX_STATE, N_STREAMS };

/* The same bytes in every ABI of 64 bits and little endian. */
struct record {
    struct cyopt_hyper hyper;
    int64_t t;
    double grad_norm, update_norm, param_norm;
    int skipped, want_norms;
    int n_arrays, dtype, has_average, average_begins, zero_grad;
};

struct numbers {
    ptrdiff_t size; /* of one stream */
    char *before, *after, *now;
};

static void fail(const char *what)
{
    puts(what);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *room = malloc(bytes);
    if (!room)
        fail("no memory");
    return room;
}

static void read_exactly(FILE *file, void *to, size_t bytes)
{
    if (fread(to, 1, bytes, file) != bytes)
        fail("the file ends too early");
}

static ptrdiff_t item_bytes(const struct record *record)
{
    return record->dtype == CYOPT_FLOAT64 ? 8 : 4;
}

static void read_numbers(FILE *file, const struct record *record, struct numbers *x)
{
    int64_t size;
    read_exactly(file, &size, sizeof size);
    x->size = (ptrdiff_t)size;
    const size_t bytes = (size_t)(N_STREAMS * x->size * item_bytes(record));
    x->before = allocate(3 * bytes);
    x->after = x->before + bytes;
    x->now = x->after + bytes;
    read_exactly(file, x->before, 2 * bytes);
}

/* The array of a step, with all numbers as before it. */
static struct cyopt_array begin(const struct record *record, const struct numbers *x)
{
    const ptrdiff_t stream = x->size * item_bytes(record);
    memcpy(x->now, x->before, (size_t)(N_STREAMS * stream));
    struct cyopt_array array = {
        .size = x->size,
        .dtype = record->dtype,
        .param = x->now + PARAM * stream,
        .grad = x->now + GRAD * stream,
        .average = record->has_average ? x->now + AVERAGE * stream : NULL,
        .average_begins = record->average_begins,
        .zero_grad = record->zero_grad,
        .grad_dtype = record->dtype,
    };
    for (int i = 0; i < CYOPT_MAX_STATE; i++)
        array.state[i] = x->now + (STATE + i) * stream;
    return array;
}

static double number(const struct record *record, const char *numbers, ptrdiff_t i)
{
    return record->dtype == CYOPT_FLOAT64 ? ((const double *)(const void *)numbers)[i]
                                          : ((const float *)(const void *)numbers)[i];
}

/* A NaN equals any NaN; 0 and -0 differ. */
static int same(double a, double b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

static void compare_numbers(const struct record *record, const struct numbers *x, const char *where)
{
    static const char *const names[N_STREAMS] = {"param",   "grad",    "state 0",
                                                 "state 1", "state 2", "average"};
    for (ptrdiff_t i = 0; i < N_STREAMS * x->size; i++) {
        const double now = number(record, x->now, i), after = number(record, x->after, i);
        if (!same(now, after)) {
            printf("%s: element %td of %td of %s is %a, expected %a\n", where, i % x->size, x->size,
                   names[i / x->size], now, after);
            exit(1);
        }
    }
}

static void compare_report(const struct record *record, const struct cyopt_report *report,
                           const char *where)
{
    if (report->skipped == record->skipped && same(report->grad_norm, record->grad_norm) &&
        same(report->update_norm, record->update_norm) &&
        same(report->param_norm, record->param_norm))
        return;
    printf("%s: skipped and norms are %d %a %a %a, expected %d %a %a %a\n", where, report->skipped,
           report->grad_norm, report->update_norm, report->param_norm, record->skipped,
           record->grad_norm, record->update_norm, record->param_norm);
    exit(1);
}

/* One step with the kernels of one instruction set; returns into how many shares it was cut. */
static int replay(const struct record *record, const struct numbers *x,
                  const struct cyopt_config *config, long place)
{
    struct cyopt_array arrays[MAX_ARRAYS];
    struct cyopt_scalars scalars;
    struct cyopt_report report = {.want_norms = record->want_norms};
    char where[100];
    for (int i = 0; i < record->n_arrays; i++)
        arrays[i] = begin(record, &x[i]);
    const ptrdiff_t n_sums = 2 * cyopt_count_chunks(arrays, record->n_arrays);
    report.sums = allocate((size_t)n_sums * sizeof(double));
    cyopt_prepare(&record->hyper, record->t, &scalars);
    const int team = cyopt_step(arrays, record->n_arrays, &scalars, config, &report);
    free(report.sums);
    snprintf(where, sizeof where, "record %ld, %s, f%d, %s", place,
             cyopt_rule_name(record->hyper.rule), 8 * (int)item_bytes(record),
             cyopt_isa_name(config->isa));
    compare_report(record, &report, where);
    for (int i = 0; i < record->n_arrays; i++)
        compare_numbers(record, &x[i], where);
    return team;
}

int main(int argc, char **argv)
{
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        fail("usage: replay FILE THREADS");
    struct cyopt_config config;
    cyopt_default_config(&config);
    config.flush_subnormals = 0; /* which numbers are flushed depends on the architecture */
    config.num_threads = atoi(argv[2]);
    config.grain = 1;
    struct record record;
    long n = 0;
    int largest = 0;
    for (; fread(&record, sizeof record, 1, file) == 1; n++) {
        struct numbers numbers[MAX_ARRAYS];
        for (int i = 0; i < record.n_arrays; i++)
            read_numbers(file, &record, &numbers[i]);
        for (config.isa = 0; cyopt_isa_name(config.isa); config.isa++)
            if (cyopt_isa_available(config.isa)) {
                const int team = replay(&record, numbers, &config, n);
                largest = team > largest ? team : largest;
            }
        for (int i = 0; i < record.n_arrays; i++)
            free(numbers[i].before);
    }
    printf("%ld steps, the same bits; at most %d threads\n", n, largest);
    return 0;
}
