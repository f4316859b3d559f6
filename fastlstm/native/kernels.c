/* The kernels of every instruction set, from one source: forward.inc is included once for each and
for each type of number, in a region compiled for that instruction set. */

#include <math.h>
#include <string.h>

#include "internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define STRING(x) #x
#define JOIN_(a, b, c) fl_##a##_##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define NAME(function) JOIN(function, ISA, REAL)

/* Code between BEGIN and END is compiled for the instruction set, all else for the baseline. UNROLL: the
whole of a short loop, so that what it indexes can stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define BEGIN(features) \
    _Pragma(STRING(clang attribute push(__attribute__((target(features))), apply_to = function)))
#define END _Pragma("clang attribute pop")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define BEGIN(features) _Pragma("GCC push_options") _Pragma(STRING(GCC target(features)))
#define END _Pragma("GCC pop_options")
#endif

/* The value stays as it is, in a register of its own. After a loop over sums, GCC would else let the cell's
many numbers push a sum out of the registers (AVX2: 28 % more time). */
#if defined(__x86_64__)
#define SETTLE(value) __asm__("" : "+v"(value))
#elif defined(__aarch64__)
#define SETTLE(value) __asm__("" : "+w"(value))
#else
#define SETTLE(value)
#endif

/* e^r on |r| <= ln(2) / 2, c[0] + c[1] r + ... float: c[0] = 1, the rest minimax of the relative error of
(e^r - 1) / r, 1.4e-8; double: Taylor, 1 / k!, 1e-17. Then ln(2) as two numbers, of which the first, times
any exponent, is exact; bits of the mantissa; the exponent's bias. */
#define EXP_float {1.0f, 1.0f, 0.4999999701976776f, 0.1666654646396637f, 0.04166743904352188f, \
                   0.008366254158318043f, 0.0013870274415239692f}
#define EXP_double {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, \
                    1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800}
#define DEGREE_float 6
#define DEGREE_double 13
#define LN2_float {0.693359375f, -2.12194440e-4f}
#define LN2_double {0.6931471803691238, 1.9082149292705877e-10}
#define MANTISSA_float 23
#define MANTISSA_double 52
#define BIAS_float 127
#define BIAS_double 1023
#define INTEGER_float int32_t
#define INTEGER_double int64_t
/* how the intrinsics' names end */
#define X86_float ps
#define X86_double pd
#define NEON_float f32
#define NEON_double f64

#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)
#define OF(name) GLUE(name##_, REAL)

/* One sequence alone makes its input's products first where its weights are larger than this (they do
not stay in the first-level cache), in chunks of so many bytes (they stay in the second-level one). */
#define HOIST_ABOVE (1 << 14)
#define HOIST_BYTES (1 << 18)

/* On the way back: rows of a chunk and of one product over rows, and after how many rows the sums are added
to the gradients: a sum of sums is more accurate, and 4096 rows' products take a hundred times longer. */
#define CHUNK 128
#define FLUSH 4096
/* Threads meet twice a chunk: of so many times the rows. */
#define MEET_LESS 4
/* Of weights that many rows share there, how many bytes at once. */
#define W_BYTES (1 << 19)

/* What threads do side by side on the way back, each a share, before all go on; see backward.inc. */
enum { ENTER_PHASE, AGAIN_PHASE, ROWS_PHASE, CELLS_PHASE, RECUR_PHASE, SUMS_PHASE, ADD_PHASE, LEAVE_PHASE };

/* ROWS: how many rows' accumulators, one vector a gate, fit the registers beside weights and input;
of 32 registers a sixth row would leave too few for the cell, and six rows of [x | h] fill a small
first-level cache. */

#if defined(__x86_64__)

#define ISA avx512
#define VECTOR_BYTES 64
#define ROWS 5
#define INTRINSIC(name) GLUE(_mm512_##name##_, OF(X86))
#define FMA INTRINSIC(fmadd)
#define MIN INTRINSIC(min)
#define MAX INTRINSIC(max)
BEGIN("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define REAL float
#include "forward.inc"
#undef REAL
#define REAL double
#include "forward.inc"
#undef REAL
END
#undef ISA
#undef VECTOR_BYTES
#undef ROWS
#undef INTRINSIC

#define ISA avx2
#define VECTOR_BYTES 32
#define ROWS 3
#define INTRINSIC(name) GLUE(_mm256_##name##_, OF(X86))
BEGIN("avx2,fma")
#define REAL float
#include "forward.inc"
#undef REAL
#define REAL double
#include "forward.inc"
#undef REAL
END
#undef ISA
#undef VECTOR_BYTES
#undef ROWS
#undef INTRINSIC
#undef FMA
#undef MIN
#undef MAX

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("fma");
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#elif defined(__aarch64__)

#define ISA neon
#define VECTOR_BYTES 16
#define ROWS 5
#define FMA(a, b, c) GLUE(vfmaq_, OF(NEON))(c, a, b)
#define MIN GLUE(vminq_, OF(NEON))
#define MAX GLUE(vmaxq_, OF(NEON))
#define REAL float
#include "forward.inc"
#undef REAL
#define REAL double
#include "forward.inc"
#undef REAL
#undef ISA
#undef VECTOR_BYTES
#undef ROWS
#undef FMA
#undef MIN
#undef MAX

#endif

#define ISA baseline
#define VECTOR_BYTES 16
#define ROWS 2
#define REAL float
#include "forward.inc"
#undef REAL
#define REAL double
#include "forward.inc"
#undef REAL

static int always(void)
{
    return 1;
}

#define TABLE(isa, bytes, type) {bytes / (int)sizeof(type), fl_pack_##isa##_##type, fl_room_##isa##_##type, \
    fl_alone_##isa##_##type, fl_begin_##isa##_##type, fl_share_##isa##_##type, fl_end_##isa##_##type, \
    fl_pack_back_##isa##_##type, fl_back_room_##isa##_##type, fl_back_##isa##_##type, \
    fl_pack_linear_##isa##_##type, fl_linear_##isa##_##type}

const fl_isa_table fl_isas[] = {
#if defined(__x86_64__)
    {"avx512", has_avx512, {TABLE(avx512, 64, float), TABLE(avx512, 64, double)}},
    {"avx2", has_avx2, {TABLE(avx2, 32, float), TABLE(avx2, 32, double)}},
#elif defined(__aarch64__)
    {"neon", always, {TABLE(neon, 16, float), TABLE(neon, 16, double)}},
#endif
    {"baseline", always, {TABLE(baseline, 16, float), TABLE(baseline, 16, double)}},
};
const int fl_isa_count = sizeof fl_isas / sizeof fl_isas[0];
