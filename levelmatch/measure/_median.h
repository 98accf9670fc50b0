/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Medians in linear time. */

#ifndef LEVELMATCH_MEDIAN_H
#define LEVELMATCH_MEDIAN_H

#include <stddef.h>

/* The k-th smallest value; the array is reordered (Hoare's quickselect). */
static double lm_select(double *values, ptrdiff_t n, ptrdiff_t k)
{
    ptrdiff_t low = 0, high = n - 1;
    while (low < high) {
        double pivot = values[(low + high) / 2];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i <= j) {
                double swap = values[i];
                values[i++] = values[j];
                values[j--] = swap;
            }
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
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
