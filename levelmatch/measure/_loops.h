/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   The innermost loops, in C for `restrict` and 32-bit counters, without which the compiler
   does not vectorise them. `_loops_typed.h` defines them for float and for double; their names
   end in _f and in _d. */

#ifndef LEVELMATCH_LOOPS_H
#define LEVELMATCH_LOOPS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_clones.h"

#if defined(_MSC_VER)
#define LM_RESTRICT __restrict
#define LM_INLINE static __forceinline
#else
#define LM_RESTRICT restrict
#define LM_INLINE static inline __attribute__((always_inline))
#endif

/* Rows of a cell are too short for the processor to predict the addresses of the next cell. The end
   of a row often lies in a cache line of its own. */
#if defined(__GNUC__) || defined(__clang__)
#define LM_AHEAD(row, n) \
    for (int ahead = 0; ahead <= (n); ahead += 64 / (int) sizeof(*(row))) \
    __builtin_prefetch((row) + (n) + ahead)
#else
#define LM_AHEAD(row, n)
#endif

/* Sums of this many values are exact enough in the images' own precision. */
#define LM_CHUNK 256

/* The first, rough median and scatter of a cell come from at most this many values. */
#define LM_ROUGH 96
#define LM_HALVINGS 60
/* Differences are counts if more than this fraction of them equals one of the values tried.
   Noise of half of a pixel's least step has more, and its clip at three sigma still keeps it. */
#define LM_EQUAL 0.3
#define LM_TRIED 6

/* Stands for a bad sample: outside of all bounds, and finite, so that 0 times it is 0. Samples
   beyond it are bad, too: fourth powers of doubles below it do not overflow. */
#define LM_BAD_f 3e38f
#define LM_BAD_d 1e75

/* Two images show a source within this many pixels. */
#define LM_REACH 2
/* Positions along each axis from which the mean variance of a block's samples is found. */
#define LM_TRIED_SIDE 8

/* Rows and columns of a block of a peak map. */
#define LM_PEAK 4

/* The bits of a pixel, which may be read where a number is stored. */
#if defined(__GNUC__) || defined(__clang__)
typedef uint32_t __attribute__((may_alias)) lm_word_f;
typedef uint64_t __attribute__((may_alias)) lm_word_d;
#else
typedef uint32_t lm_word_f;
typedef uint64_t lm_word_d;
#endif

/* A weight over a block of pixels: a bilinear function of the column and the row. */
typedef struct {
    double start, along, up, twist;
} lm_weight;

#define LM_PASTE(name, suffix) name##suffix
#define LM_JOIN(name, suffix) LM_PASTE(name, suffix)
#define LM_NAME(name) LM_JOIN(name, LM_SUFFIX)

#define T float
#define W lm_word_f
#define LM_SUFFIX _f
#include "_loops_typed.h"
#undef T
#undef W
#undef LM_SUFFIX

#define T double
#define W lm_word_d
#define LM_SUFFIX _d
#include "_loops_typed.h"
#undef T
#undef W
#undef LM_SUFFIX

#endif
