/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   The innermost loops, in C for `restrict` and 32-bit counters, without which
   the compiler does not vectorise them. Each for float and for double. */

#ifndef LEVELMATCH_LOOPS_H
#define LEVELMATCH_LOOPS_H

#include <stddef.h>

#if defined(_MSC_VER)
#define LM_RESTRICT __restrict
#else
#define LM_RESTRICT restrict
#endif

/* Twice the width where the processor has it, chosen when the module is loaded. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define LM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define LM_CLONES
#endif

/* Sums of this many values are exact enough in the images' own precision. */
#define LM_CHUNK 256

#define LM_DEFINE_LOOPS(T, NAME)                                                          \
                                                                                          \
/* Differences, and sums, of n consecutive pixels of two images. Both are sampled         \
   bilinearly between a pixel and its neighbours at `right` and `up`; the weights are     \
   linear along the run. */                                                               \
LM_CLONES static void lm_run_##NAME(                                                                \
    const T *LM_RESTRICT a, const T *LM_RESTRICT b, ptrdiff_t a_right, ptrdiff_t a_up,    \
    ptrdiff_t b_right, ptrdiff_t b_up, int n, T ax, T ay, T bx, T by, T dax, T day,       \
    T dbx, T dby, T *LM_RESTRICT diff, T *LM_RESTRICT sum)                                \
{                                                                                         \
    const T *LM_RESTRICT a01 = a + a_right, *LM_RESTRICT a10 = a + a_up;                  \
    const T *LM_RESTRICT a11 = a + a_up + a_right;                                        \
    const T *LM_RESTRICT b01 = b + b_right, *LM_RESTRICT b10 = b + b_up;                  \
    const T *LM_RESTRICT b11 = b + b_up + b_right;                                        \
    for (int i = 0; i < n; i++) {                                                         \
        T k = (T) i;                                                                      \
        T wx = ax + k * dax, wy = ay + k * day;                                           \
        T low = a[i] + wx * (a01[i] - a[i]);                                              \
        T high = a10[i] + wx * (a11[i] - a10[i]);                                         \
        T va = low + wy * (high - low);                                                   \
        wx = bx + k * dbx;                                                                \
        wy = by + k * dby;                                                                \
        low = b[i] + wx * (b01[i] - b[i]);                                                \
        high = b10[i] + wx * (b11[i] - b10[i]);                                           \
        T vb = low + wy * (high - low);                                                   \
        diff[i] = va - vb;                                                                \
        sum[i] = va + vb;                                                                 \
    }                                                                                     \
}                                                                                         \
                                                                                          \
/* Close the gaps that NaN and infinity leave; return what is left. The x of each, from x on,   \
   is added up, and written down if there is where to. */                                 \
static int lm_compact_##NAME(T *diff, T *sum, int *at_x, int n, int x, double *x_sum)     \
{                                                                                         \
    int kept = 0, bad = 0, steps = 0;                                                     \
    for (int i = 0; i < n; i++)                                                           \
        bad += !(diff[i] - diff[i] == 0);                                                 \
    if (bad == 0) {                                                                       \
        *x_sum += n * (x + 0.5 * (n - 1));                                                \
        for (int i = 0; at_x != NULL && i < n; i++)                                       \
            at_x[i] = x + i;                                                              \
        return n;                                                                         \
    }                                                                                     \
    for (int i = 0; i < n; i++) {                                                         \
        T value = diff[i];                                                                \
        int good = value - value == 0;                                                    \
        diff[kept] = value;                                                               \
        sum[kept] = sum[i];                                                               \
        if (at_x != NULL)                                                                 \
            at_x[kept] = x + i;                                                           \
        steps += good * i;                                                                \
        kept += good;                                                                     \
    }                                                                                     \
    *x_sum += kept * (double) x + steps;                                                  \
    return kept;                                                                          \
}                                                                                         \
                                                                                          \
/* Count, sum and sum of squares about the centre of the values within the bounds, and    \
   the sum of a second array there. */                                                    \
LM_CLONES static void lm_moments_##NAME(                                                            \
    const T *LM_RESTRICT values, const T *LM_RESTRICT other, int n, T low, T high,        \
    T centre, double *out)                                                                \
{                                                                                         \
    out[0] = out[1] = out[2] = out[3] = 0;                                                \
    for (int start = 0; start < n; start += LM_CHUNK) {                                   \
        int stop = n - start < LM_CHUNK ? n : start + LM_CHUNK;                           \
        T count = 0, first = 0, second = 0, third = 0;                                    \
        for (int i = start; i < stop; i++) {                                              \
            T d = values[i] - centre;                                                     \
            T in = (values[i] < low ? (T) 0 : (T) 1) * (values[i] > high ? (T) 0 : (T) 1);\
            d *= in;                                                                      \
            count += in;                                                                  \
            first += d;                                                                   \
            second += d * d;                                                              \
            third += in * other[i];                                                       \
        }                                                                                 \
        out[0] += count;                                                                  \
        out[1] += first;                                                                  \
        out[2] += second;                                                                 \
        out[3] += third;                                                                  \
    }                                                                                     \
}                                                                                         \
                                                                                          \
/* Whether a block of an image has any good pixel. */                                     \
LM_CLONES static int lm_good_##NAME(const T *image, ptrdiff_t stride, int ny, int nx)     \
{                                                                                         \
    for (int y = 0; y < ny; y++) {                                                        \
        int good = 0;                                                                     \
        for (int x = 0; x < nx; x++)                                                      \
            good |= image[y * stride + x] == image[y * stride + x];                       \
        if (good)                                                                         \
            return 1;                                                                     \
    }                                                                                     \
    return 0;                                                                             \
}                                                                                         \
                                                                                          \
/* Sums of all differences, and of all sums, less what the kept pixels have. */            \
LM_CLONES static void lm_excess_##NAME(                                                             \
    const T *LM_RESTRICT diff, const T *LM_RESTRICT sum, int n, T diff0, T sum0,          \
    double *out)                                                                          \
{                                                                                         \
    out[0] = out[1] = 0;                                                                  \
    for (int start = 0; start < n; start += LM_CHUNK) {                                   \
        int stop = n - start < LM_CHUNK ? n : start + LM_CHUNK;                           \
        T first = 0, second = 0;                                                          \
        for (int i = start; i < stop; i++) {                                              \
            first += diff[i] - diff0;                                                     \
            second += sum[i] - sum0;                                                      \
        }                                                                                 \
        out[0] += first;                                                                  \
        out[1] += second;                                                                 \
    }                                                                                     \
}

LM_DEFINE_LOOPS(float, f)
LM_DEFINE_LOOPS(double, d)

#endif
