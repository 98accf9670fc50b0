/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Normal equations of weighted least squares with few terms. */

#ifndef LEVELMATCH_NORMAL_H
#define LEVELMATCH_NORMAL_H

#include <stddef.h>

#include "_clones.h"

/* Most terms; room for the value in a row whose length suits the processor's vectors; rows that are
   summed together. */
enum { LM_MOST_TERMS = 10, LM_ROW = 12, LM_ROWS = 4 };

/* The sums, over n rows of k terms, of the products of terms with each other and with the values.

   normal is k x k, and all of it is set. */
LM_CLONES static void lm_normal(const double *design, const double *weight, const double *values,
                                ptrdiff_t n, ptrdiff_t k, double *normal, double *right)
{
    double sums[LM_MOST_TERMS][LM_ROW] = {{0}};
    /* Several rows at a time, because reading and writing the sums takes longest. */
    for (ptrdiff_t c = 0; c < n; c += LM_ROWS) {
        double rows[LM_ROWS][LM_ROW] = {{0}}, own[LM_ROWS] = {0};
        for (ptrdiff_t r = 0; r < LM_ROWS && c + r < n; r++) {
            for (ptrdiff_t i = 0; i < k; i++)
                rows[r][i] = design[k * (c + r) + i];
            rows[r][k] = values[c + r];
            own[r] = weight[c + r];
        }
        for (ptrdiff_t i = 0; i < k; i++) {
            const double a = own[0] * rows[0][i], b = own[1] * rows[1][i];
            const double d = own[2] * rows[2][i], e = own[3] * rows[3][i];
            for (int j = 0; j < LM_ROW; j++)
                sums[i][j] += a * rows[0][j] + b * rows[1][j] + d * rows[2][j] + e * rows[3][j];
        }
    }
    for (ptrdiff_t i = 0; i < k; i++) {
        right[i] = sums[i][k];
        for (ptrdiff_t j = 0; j < k; j++)
            normal[k * i + j] = i < j ? sums[j][i] : sums[i][j];
    }
}

#endif
