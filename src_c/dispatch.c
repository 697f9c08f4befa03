/* Which instruction set, and the kernel for it. */
#include "kernels.h"

static const struct {
    const char *name;
    cyopt_kernel_table (*kernels)(enum cyopt_dtype dtype);
    const struct cyopt_sides *(*sides)(enum cyopt_dtype dtype);
} isas[] = {
#ifdef CYOPT_X86_KERNELS
    {"avx512", cyopt_kernels_avx512, cyopt_sides_avx512},
    {"avx2", cyopt_kernels_avx2, cyopt_sides_avx2},
#endif
    {"base", cyopt_kernels_base, cyopt_sides_base},
};

#define N_ISAS ((int)(sizeof isas / sizeof isas[0]))

const char *cyopt_isa_name(int isa)
{
    return isa >= 0 && isa < N_ISAS ? isas[isa].name : NULL;
}

/* The builtin asks the processor and also the operating system, which must save the registers. */
int cyopt_isa_available(int isa)
{
    if (!cyopt_isa_name(isa))
        return 0;
#ifdef CYOPT_X86_KERNELS
    if (isas[isa].kernels == cyopt_kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    if (isas[isa].kernels == cyopt_kernels_avx2)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return 1;
}

cyopt_kernel *cyopt_find_kernel(int isa, int dtype, const struct cyopt_scalars *scalars,
                                int averaged)
{
    const int options = scalars->prologue | (averaged ? CYOPT_AVERAGED : 0);
    return isas[isa].kernels((enum cyopt_dtype)dtype)[scalars->rule][options];
}

const struct cyopt_sides *cyopt_find_sides(int isa, int dtype)
{
    return isas[isa].sides((enum cyopt_dtype)dtype);
}

const char *cyopt_rule_name(int rule)
{
#define RULE_NAME(name, function, variant, slots, cost) #name,
    static const char *const names[] = {CYOPT_RULES(RULE_NAME)};
#undef RULE_NAME
    return rule >= 0 && rule < CYOPT_N_RULES ? names[rule] : NULL;
}

void cyopt_default_config(struct cyopt_config *config)
{
    config->isa = 0;
    while (!cyopt_isa_available(config->isa))
        config->isa++;
    config->num_threads = 0;
    config->max_threads = 0;
    config->flush_subnormals = 1;
    config->grain = CYOPT_DEFAULT_GRAIN;
    config->kernels = (uintptr_t)cyopt_find_kernel;
}
