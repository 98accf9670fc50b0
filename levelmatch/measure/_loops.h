/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   The innermost loops, in C for `restrict` and 32-bit counters, without which
   the compiler does not vectorise them. Each for float and for double. */

#ifndef LEVELMATCH_LOOPS_H
#define LEVELMATCH_LOOPS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_MSC_VER)
#define LM_RESTRICT __restrict
#define LM_INLINE static __forceinline
#else
#define LM_RESTRICT restrict
#define LM_INLINE static inline __attribute__((always_inline))
#endif

/* A cell's rows are too short for the processor to foresee the next cell's. */
#if defined(__GNUC__) || defined(__clang__)
#define LM_AHEAD(row, n) \
    for (int ahead = 0; ahead < (n); ahead += 64 / (int) sizeof(*(row))) \
    __builtin_prefetch((row) + (n) + ahead)
#else
#define LM_AHEAD(row, n)
#endif

/* Twice the width where the processor has it, chosen when the module is loaded: by glibc
   alone (which <stdint.h> tells of). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define LM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define LM_CLONES
#endif

/* Sums of this many values are exact enough in the images' own precision. */
#define LM_CHUNK 256

/* Values, at most, from which the first, rough, median and scatter of a cell are found. */
#define LM_ROUGH 96
#define LM_HALVINGS 60
/* Of noise of a pixel's least step the part of equal differences, and the values that are
   tried. Noise of half of that step has more, and three of its sigma still hold it. */
#define LM_EQUAL 0.3
#define LM_TRIED 6

/* In the place of a bad sample: within no bounds, and finite, so that 0 times it is 0. */
#define LM_BAD_f 3e38f
#define LM_BAD_d 1e300

/* A weight over a block of pixels: a bilinear function of the column and the row. */
typedef struct {
    double start, along, up, twist;
} lm_weight;

#define LM_DEFINE_LOOPS(T, NAME)                                                          \
/* Differences, and sums, of n consecutive pixels of two images. Both are sampled         \
   bilinearly between a pixel and its neighbours at `right` and `up`; the weights are     \
   linear along the run. Returns how many are good, and adds up their places. */          \
LM_INLINE int lm_row_##NAME(                                                              \
    const T *LM_RESTRICT a, const T *LM_RESTRICT b, ptrdiff_t a_right, ptrdiff_t a_up,    \
    ptrdiff_t b_right, ptrdiff_t b_up, int n, T ax, T ay, T bx, T by, T dax, T day,       \
    T dbx, T dby, T *LM_RESTRICT diff, T *LM_RESTRICT sum, int *places)                   \
{                                                                                         \
    const T *LM_RESTRICT a01 = a + a_right, *LM_RESTRICT a10 = a + a_up;                  \
    const T *LM_RESTRICT a11 = a + a_up + a_right;                                        \
    const T *LM_RESTRICT b01 = b + b_right, *LM_RESTRICT b10 = b + b_up;                  \
    const T *LM_RESTRICT b11 = b + b_up + b_right;                                        \
    int count = 0, at = 0;                                                                \
    LM_AHEAD(a, n);                                                                       \
    LM_AHEAD(b, n);                                                                       \
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
        T d = va - vb;                                                                    \
        /* Neither NaN nor infinite. */                                                   \
        int good = (d > -LM_BAD_##NAME) & (d < LM_BAD_##NAME);                            \
        diff[i] = good ? d : LM_BAD_##NAME;                                               \
        sum[i] = good ? va + vb : 0;                                                      \
        count += good;                                                                    \
        at += good ? i : 0;                                                               \
    }                                                                                     \
    *places += at;                                                                        \
    return count;                                                                         \
}                                                                                         \
                                                                                          \
LM_CLONES static int lm_run_##NAME(                                                       \
    const T *a, const T *b, ptrdiff_t a_right, ptrdiff_t a_up, ptrdiff_t b_right,         \
    ptrdiff_t b_up, int n, T ax, T ay, T bx, T by, T dax, T day, T dbx, T dby, T *diff,   \
    T *sum, int *places)                                                                  \
{                                                                                         \
    return lm_row_##NAME(a, b, a_right, a_up, b_right, b_up, n, ax, ay, bx, by, dax, day, \
                         dbx, dby, diff, sum, places);                                    \
}                                                                                         \
                                                                                          \
/* The same for a block of rows, over which each image's neighbours stay on one side. */  \
LM_CLONES static int lm_block_##NAME(                                                     \
    const T *a, const T *b, ptrdiff_t a_right, ptrdiff_t a_up, ptrdiff_t a_next,          \
    ptrdiff_t b_right, ptrdiff_t b_up, ptrdiff_t b_next, int ny, int nx,                  \
    const lm_weight *w, T *diff, T *sum, double *x_sum, double *y_sum)                    \
{                                                                                         \
    int total = 0;                                                                        \
    for (int y = 0; y < ny; y++) {                                                        \
        int places = 0;                                                                   \
        int count = lm_row_##NAME(                                                        \
            a + y * a_next, b + y * b_next, a_right, a_up, b_right, b_up, nx,             \
            (T) (w[0].start + y * w[0].up), (T) (w[1].start + y * w[1].up),               \
            (T) (w[2].start + y * w[2].up), (T) (w[3].start + y * w[3].up),               \
            (T) (w[0].along + y * w[0].twist), (T) (w[1].along + y * w[1].twist),         \
            (T) (w[2].along + y * w[2].twist), (T) (w[3].along + y * w[3].twist),         \
            diff + y * nx, sum + y * nx, &places);                                        \
        *x_sum += places;                                                                 \
        *y_sum += (double) count * y;                                                     \
        total += count;                                                                   \
    }                                                                                     \
    return total;                                                                         \
}                                                                                         \
                                                                                          \
/* The value in the middle of n: the mean of the two there, or a number between them. By  \
   halving the range that holds it, which takes no order of the values. */                \
LM_CLONES static T lm_middle_##NAME(const T *LM_RESTRICT values, int n)                   \
{                                                                                         \
    T low = values[0], high = values[0];                                                  \
    for (int i = 1; i < n; i++) {                                                         \
        low = values[i] < low ? values[i] : low;                                          \
        high = values[i] > high ? values[i] : high;                                       \
    }                                                                                     \
    int least = 0;                                                                        \
    for (int i = 0; i < n; i++)                                                           \
        least += values[i] <= low;                                                        \
    if (2 * least >= n)                                                                   \
        return low;                                                                       \
    for (int step = 0; step < LM_HALVINGS; step++) {                                      \
        T middle = (T) 0.5 * low + (T) 0.5 * high;                                        \
        /* No number lies between. */                                                     \
        if (!(low < middle && middle < high))                                             \
            break;                                                                        \
        int below = 0;                                                                    \
        for (int i = 0; i < n; i++)                                                       \
            below += values[i] <= middle;                                                 \
        if (2 * below == n)                                                               \
            return middle;                                                                \
        if (2 * below < n)                                                                \
            low = middle;                                                                 \
        else                                                                              \
            high = middle;                                                                \
    }                                                                                     \
    /* The largest value up to there: the middle one, exactly. */                         \
    T found = low;                                                                        \
    for (int i = 0; i < n; i++)                                                           \
        found = values[i] <= high && values[i] > found ? values[i] : found;               \
    return found;                                                                         \
}                                                                                         \
                                                                                          \
/* Count, sum and sum of squares about the centre of the values within the bounds, and    \
   the sum of a second array there. In units of `unit`, a power of two, lest squares are  \
   too small or too large for the type. */                                                \
LM_CLONES static void lm_moments_##NAME(                                                  \
    const T *LM_RESTRICT values, const T *LM_RESTRICT other, int n, T low, T high,        \
    T centre, T unit, double *out)                                                        \
{                                                                                         \
    T inverse = 1 / unit;                                                                                         \
    out[0] = out[1] = out[2] = out[3] = 0;                                                \
    for (int start = 0; start < n; start += LM_CHUNK) {                                   \
        int stop = n - start < LM_CHUNK ? n : start + LM_CHUNK;                           \
        T count = 0, first = 0, second = 0, third = 0;                                    \
        for (int i = start; i < stop; i++) {                                              \
            /* One factor alone, so that 0 times anything is 0 in any order. */           \
            T in = (values[i] < low) | (values[i] > high) ? (T) 0 : inverse;              \
            T d = (values[i] - centre) * in;                                              \
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
    out[0] *= unit;                                                                       \
    out[3] *= unit;                                                                       \
    out[1] *= unit;                                                                       \
    out[2] *= (double) unit * unit;                                                       \
}                                                                                         \
                                                                                          \
/* Whether so many of n values are equal that to clip them would make them all so:        \
   photons that are few, noise that was rounded away. */                                  \
LM_CLONES static int lm_counted_##NAME(const T *LM_RESTRICT values, int n, T middle)      \
{                                                                                         \
    for (int k = 0; k < LM_TRIED; k++) {                                                  \
        T one = k == 0 ? middle : k == 1 ? (T) 0 : values[k * n / LM_TRIED];              \
        int same = 0;                                                                     \
        for (int i = 0; i < n; i++)                                                       \
            same += values[i] == one;                                                     \
        if (same > LM_EQUAL * n)                                                          \
            return 1;                                                                     \
    }                                                                                     \
    return 0;                                                                             \
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
/* Sums of all good differences, and of their sums, less what the kept pixels have. */    \
LM_CLONES static void lm_excess_##NAME(                                                   \
    const T *LM_RESTRICT diff, const T *LM_RESTRICT sum, int n, T diff0, T sum0,          \
    double *out)                                                                          \
{                                                                                         \
    out[0] = out[1] = 0;                                                                  \
    for (int start = 0; start < n; start += LM_CHUNK) {                                   \
        int stop = n - start < LM_CHUNK ? n : start + LM_CHUNK;                           \
        T first = 0, second = 0;                                                          \
        for (int i = start; i < stop; i++) {                                              \
            T good = diff[i] < LM_BAD_##NAME ? (T) 1 : (T) 0;                             \
            first += good * (diff[i] - diff0);                                            \
            second += good * (sum[i] - sum0);                                             \
        }                                                                                 \
        out[0] += first;                                                                  \
        out[1] += second;                                                                 \
    }                                                                                     \
}

LM_DEFINE_LOOPS(float, f)
LM_DEFINE_LOOPS(double, d)

#endif
