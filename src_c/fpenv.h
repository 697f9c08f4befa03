/* The floating-point environment of a step: round to nearest, no traps, subnormals flushed or kept.
 *
 * A subnormal operand costs a CPU over a hundred cycles, and the moments of a parameter whose
 * gradient stays zero decay to subnormals after some hundreds of steps. Flushing is set in the
 * thread's control register; all of it, sticky flags included, is restored after the loop. */
#ifndef CYOPT_FPENV_H
#define CYOPT_FPENV_H

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
#include <xmmintrin.h>

typedef unsigned int cyopt_fpenv;

/* MXCSR: 0x1F80 masks all exceptions; 0x8000 flushes results (FTZ), 0x0040 operands (DAZ). */
static inline cyopt_fpenv cyopt_fpenv_enter(int flush_subnormals)
{
    const cyopt_fpenv saved = _mm_getcsr();
    _mm_setcsr(flush_subnormals ? 0x9FC0 : 0x1F80);
    return saved;
}

static inline void cyopt_fpenv_leave(cyopt_fpenv saved)
{
    _mm_setcsr(saved);
}

#elif defined(__aarch64__) && defined(__GNUC__)

typedef struct {
    uint64_t fpcr, fpsr; /* control; sticky flags */
} cyopt_fpenv;

/* FPCR: bit 24 (FZ) flushes operands and results; 0 is round to nearest, no traps. */
static inline cyopt_fpenv cyopt_fpenv_enter(int flush_subnormals)
{
    cyopt_fpenv saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.fpcr));
    __asm__ volatile("mrs %0, fpsr" : "=r"(saved.fpsr));
    __asm__ volatile("msr fpcr, %0" : : "r"(flush_subnormals ? UINT64_C(1) << 24 : UINT64_C(0)));
    return saved;
}

static inline void cyopt_fpenv_leave(cyopt_fpenv saved)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(saved.fpcr));
    __asm__ volatile("msr fpsr, %0" : : "r"(saved.fpsr));
}

#else /* no known control register: subnormals are kept, as in IEEE 754 */

typedef int cyopt_fpenv;

static inline cyopt_fpenv cyopt_fpenv_enter(int flush_subnormals)
{
    (void)flush_subnormals;
    return 0;
}

static inline void cyopt_fpenv_leave(cyopt_fpenv saved)
{
    (void)saved;
}

#endif
#endif
