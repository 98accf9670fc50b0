/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Medians in linear time. */

#ifndef LEVELMATCH_MEDIAN_H
#define LEVELMATCH_MEDIAN_H

#include <stddef.h>
#include <stdint.h>

/* The value at a pseudo-random place from low to high: by a linear congruential generator, whose
   high bits are used. */
static inline double lm_any(const double *values, ptrdiff_t low, ptrdiff_t high, uint32_t *state)
{
    *state = 1664525u * *state + 1013904223u;
    return values[low + (ptrdiff_t)(((uint64_t)(high - low + 1) * *state) >> 32)];
}

/* The k-th smallest value; the array is reordered.

   Quickselect whose loop has no branch that depends on the values: half of such branches would be
   predicted wrong. The pivot is the median of values at pseudo-random places. Values at the ends
   and in the middle are bad pivots in arrays that rise and fall, such as distances from a plane,
   and would take quadratic time. */
static double lm_select(double *values, ptrdiff_t n, ptrdiff_t k)
{
    ptrdiff_t low = 0, high = n - 1;
    uint32_t state = 1;
    while (low < high) {
        const double first = lm_any(values, low, high, &state);
        const double second = lm_any(values, low, high, &state);
        const double third = lm_any(values, low, high, &state);
        const double smaller = first < second ? first : second;
        const double larger = first < second ? second : first;
        const double pivot = third < smaller ? smaller : third > larger ? larger : third;
        ptrdiff_t end = low;
        for (ptrdiff_t i = low; i <= high; i++) {
            const double value = values[i];
            values[i] = values[end];
            values[end] = value;
            end += value < pivot;
        }
        if (k < end) {
            high = end - 1;
        } else if (end > low) {
            low = end;
        } else {
            /* None is smaller. Part off all that equal the pivot, which are many in counts. */
            for (ptrdiff_t i = low; i <= high; i++) {
                const double value = values[i];
                values[i] = values[end];
                values[end] = value;
                end += !(value > pivot);
            }
            if (k < end)
                return pivot;
            low = end;
        }
    }
    return values[k];
}

/* The median; the array is reordered. */
static double lm_median(double *values, ptrdiff_t n)
{
    ptrdiff_t half = n / 2;
    double upper = lm_select(values, n, half), lower;
    if (n % 2)
        return upper;
    lower = values[0];
    for (ptrdiff_t i = 1; i < half; i++)
        if (values[i] > lower)
            lower = values[i];
    return 0.5 * (lower + upper);
}

#endif
