/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Medians in linear time. */

#ifndef LEVELMATCH_MEDIAN_H
#define LEVELMATCH_MEDIAN_H

#include <stddef.h>

/* The k-th smallest value; the array is reordered.

   Quickselect whose loop has no branch that depends on the values: half of such branches would be
   predicted wrong. */
static double lm_select(double *values, ptrdiff_t n, ptrdiff_t k)
{
    ptrdiff_t low = 0, high = n - 1;
    while (low < high) {
        const double first = values[low], last = values[high], middle = values[(low + high) / 2];
        const double smaller = first < last ? first : last, larger = first < last ? last : first;
        const double pivot = middle < smaller ? smaller : middle > larger ? larger : middle;
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
