/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Pixels of FITS files to the processor's byte order. */

#ifndef LEVELMATCH_DECODE_H
#define LEVELMATCH_DECODE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(_WIN32)
#include <io.h>
#include <stdio.h>
#else
#include <errno.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <fcntl.h>
#endif

#include "_clones.h"

#if defined(_MSC_VER)
#define LM_RESTRICT __restrict
#define LM_INLINE static __forceinline
#else
#define LM_RESTRICT restrict
#define LM_INLINE static inline __attribute__((always_inline))
#endif

/* Most significant byte first, to the processor's own order and back. */
LM_INLINE uint32_t lm_native(uint32_t word)
{
    const union {
        uint8_t bytes[4];
        uint32_t word;
    } one = {{0, 0, 0, 1}};
    if (one.word == 1)
        return word;
    return word >> 24 | (word >> 8 & 0xff00u) | (word << 8 & 0xff0000u) | word << 24;
}

/* 32-bit floats of a file minus a level, in double precision; the sum of the words of the
   difference, most significant byte first, without carries. */
LM_CLONES static uint64_t lm_subtract_and_sum(const uint32_t *from, uint32_t *to, ptrdiff_t n,
                                              double level)
{
    uint64_t sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        union {
            uint32_t word;
            float value;
        } pixel;
        pixel.word = lm_native(from[i]);
        pixel.value = (float)((double)pixel.value - level);
        sum += pixel.word;
        to[i] = lm_native(pixel.word);
    }
    return sum;
}

/* Sum of the 32-bit words of a file, most significant byte first, without carries. */
LM_CLONES static uint64_t lm_sum(const uint32_t *words, ptrdiff_t n)
{
    uint64_t sum = 0;
    for (ptrdiff_t i = 0; i < n; i++)
        sum += lm_native(words[i]);
    return sum;
}

LM_INLINE double lm_value(uint32_t word, int stored)
{
    union {
        uint32_t word;
        float value;
    } pixel;
    pixel.word = stored ? lm_native(word) : word;
    return pixel.value;
}

/* Of the sampled pixels of an image: the largest; the smallest limit that holds for a sample and
   the second pixel after it; whether a sample equals both pixels after it. */
typedef struct {
    double largest, smallest;
    int equal;
} lm_sampled;

/* Samples of a row: every step pixels, and in rows that begin a square of 3 by 3 the last square.
   The squares are those of fill.py: every step rows, and the last. */
static void lm_sample_row(lm_sampled *found, const uint32_t *row, ptrdiff_t y, ptrdiff_t ny,
                          ptrdiff_t nx, ptrdiff_t step, int stored)
{
    if (y % step == 0)
        for (ptrdiff_t x = 0; x < nx; x += step) {
            double value = fabs(lm_value(row[x], stored));
            if (value > found->largest && value < INFINITY)
                found->largest = value;
        }
    if (y != ny - 3 && (y % step != 0 || y > ny - 3))
        return;
    for (ptrdiff_t x = 0, last = 0; !last && !found->equal; x += step) {
        last = x >= nx - 3;
        const uint32_t *pixel = row + (last ? nx - 3 : x);
        double value = lm_value(pixel[0], stored), third = lm_value(pixel[2], stored);
        found->equal = value == lm_value(pixel[1], stored) && value == third &&
                       fabs(value) < INFINITY;
        /* Single bad pixels of zero are no rounding errors. Also false for NaN. */
        if (fabs(value) < found->smallest && fabs(third) < found->smallest)
            found->smallest = fabs(value) > fabs(third) ? fabs(value) : fabs(third);
    }
}

/* Whether a sampled pixel equals the next two in its row, or is tiny as the last of these. */
static int lm_may_have_fill(const uint32_t *words, ptrdiff_t ny, ptrdiff_t nx, ptrdiff_t step,
                            double rounding, int stored)
{
    lm_sampled found = {0.0, INFINITY, 0};
    for (ptrdiff_t y = 0; y < ny && !found.equal; y++)
        if (y % step == 0 || y == ny - 3)
            lm_sample_row(&found, words + y * nx, y, ny, nx, step, stored);
    return found.equal || found.smallest <= rounding * found.largest;
}

/* 32-bit floats of a file made native, NaN where any of some bits is set in their flags. */
LM_CLONES static void lm_decode(uint32_t *LM_RESTRICT words, const uint32_t *LM_RESTRICT flags,
                                ptrdiff_t n, uint32_t bits, uint32_t flip)
{
    if (flags == NULL) {
        for (ptrdiff_t i = 0; i < n; i++)
            words[i] = lm_native(words[i]);
        return;
    }
    bits = lm_native(bits);
    flip = lm_native(flip);
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t word = lm_native(words[i]);
        words[i] = (flags[i] ^ flip) & bits ? 0x7fc00000u : word;
    }
}

enum { LM_READ, LM_WRITE };

/* Read or write all bytes at a position of an open file; false, with errno, if that fails. */
static int lm_transfer(int file, void *bytes, int64_t size, int64_t position, int direction)
{
    char *place = bytes;
    while (size > 0) {
#if defined(_WIN32)
        if (_lseeki64(file, position, SEEK_SET) < 0)
            return 0;
        const int64_t count = direction == LM_READ ? _read(file, place, (unsigned)size)
                                                   : _write(file, place, (unsigned)size);
#else
        const int64_t count = direction == LM_READ
                                  ? pread(file, place, (size_t)size, (off_t)position)
                                  : pwrite(file, place, (size_t)size, (off_t)position);
        if (count < 0 && errno == EINTR)
            continue;
#endif
        if (count <= 0)
            return 0;
        place += count;
        position += count;
        size -= count;
    }
    return 1;
}

/* Reserve space on the disk for the bytes of a new file, if the file system can. Unlike
   posix_fallocate, it writes nothing where it cannot. */
static void lm_reserve(int file, int64_t size)
{
#if defined(__linux__)
    (void)fallocate(file, FALLOC_FL_KEEP_SIZE, 0, (off_t)size);
#else
    (void)file;
    (void)size;
#endif
}

/* Copy an image between files, minus a level. The rows pass through a buffer that the processor's
   cache holds. With a step, copying ends at a sample that may be a fill value. Returns 0, 1 if the
   image cannot be read, or 2 if it cannot be written. */
static int lm_copy_minus(int from, int64_t start, int to, int64_t target, uint32_t *buffer,
                         ptrdiff_t rows, ptrdiff_t ny, ptrdiff_t nx, double level, ptrdiff_t step,
                         double rounding, uint64_t *sum, int *may_have_fill)
{
    lm_sampled found = {0.0, INFINITY, 0};
    *sum = 0;
    for (ptrdiff_t y = 0; y < ny; y += rows) {
        const ptrdiff_t count = ny - y < rows ? ny - y : rows, n = count * nx;
        const int64_t offset = 4 * (int64_t)y * nx;
        if (!lm_transfer(from, buffer, 4 * (int64_t)n, start + offset, LM_READ))
            return 1;
        for (ptrdiff_t i = 0; step > 0 && i < count; i++)
            if ((y + i) % step == 0 || y + i == ny - 3)
                lm_sample_row(&found, buffer + i * nx, y + i, ny, nx, step, 1);
        if (found.equal)
            break;
        *sum += lm_subtract_and_sum(buffer, buffer, n, level);
        if (!lm_transfer(to, buffer, 4 * (int64_t)n, target + offset, LM_WRITE))
            return 2;
    }
    *may_have_fill = found.equal || (step > 0 && found.smallest <= rounding * found.largest);
    return 0;
}

#endif
