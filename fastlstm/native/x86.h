/* The intrinsics of x86. Where Clang takes the place of Visual Studio's compiler, its header declares only those of the
instruction sets that these macros name. */

#ifndef FASTLSTM_X86_H
#define FASTLSTM_X86_H

#if defined(__clang__) && defined(_MSC_VER)
#define __SSE3__ 1
#define __SSSE3__ 1
#define __SSE4_1__ 1
#define __SSE4_2__ 1
#define __AVX__ 1
#define __AVX2__ 1
#define __FMA__ 1
#define __AVX512F__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1
#define __AVX512BW__ 1
#endif

#include <immintrin.h>

#endif
