/* The choice of the instruction set, and of its kernels. */
#include "internal.h"

static const struct {
    const char *name;
    const struct cyopt_isa *tables;
} isas[] = {
#ifdef CYOPT_X86_KERNELS
    {"avx512", &cyopt_isa_avx512},
    {"avx2", &cyopt_isa_avx2},
#endif
    {"base", &cyopt_isa_base},
};

#define N_ISAS ((int)(sizeof isas / sizeof isas[0]))

const char *cyopt_isa_name(int isa)
{
    return isa >= 0 && isa < N_ISAS ? isas[isa].name : NULL;
}

/* The builtin checks the processor, and that the operating system saves the registers. */
int cyopt_isa_available(int isa)
{
    if (!cyopt_isa_name(isa))
        return 0;
#ifdef CYOPT_X86_KERNELS
    if (isas[isa].tables == &cyopt_isa_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    if (isas[isa].tables == &cyopt_isa_avx2)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return 1;
}

cyopt_kernel *cyopt_find_kernel(int isa, int dtype, const struct cyopt_scalars *scalars,
                                int averaged)
{
    const int options = scalars->prologue | (averaged ? CYOPT_AVERAGED : 0);
    return isas[isa].tables->kernels[dtype][scalars->rule][options];
}

const struct cyopt_sides *cyopt_find_sides(int isa, int dtype)
{
    return isas[isa].tables->sides[dtype];
}

const char *cyopt_rule_name(int rule)
{
#define RULE_NAME(name, function, variant, slots, cost) #name,
    static const char *const names[] = {CYOPT_RULES(RULE_NAME)};
#undef RULE_NAME
    return rule >= 0 && rule < CYOPT_N_RULES ? names[rule] : NULL;
}
