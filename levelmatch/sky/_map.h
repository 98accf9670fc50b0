/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Map from unit vectors to pixels: an affine map and a polynomial on top of it. */

#ifndef LEVELMATCH_MAP_H
#define LEVELMATCH_MAP_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "_clones.h"

/* Most polynomials of one coordinate, and number of positions that are evaluated together: enough
   for the compiler to vectorise the loops over them instead of unrolling them. */
enum { LM_POLYNOMIALS = 16, LM_BLOCK = 32 };
/* Most products of polynomials of two coordinates up to a total degree, and two values. */
enum { LM_TERMS = LM_POLYNOMIALS * (LM_POLYNOMIALS + 1) / 2 + 2 };

typedef struct {
    const double *axes;         /* centre and two tangents, 3 x 3 */
    const double *affine;       /* 2 x 3 */
    const double *coefficients; /* 2 x k x k */
    ptrdiff_t k;
    const double *middle, *half;
    double reach;
} lm_map;

/* Pixel coordinates of a block of values of the affine map. */
LM_CLONES static void lm_polynomials(const lm_map *map, const double *p, const double *q, double *x,
                                     double *y)
{
    double in_p[LM_POLYNOMIALS][LM_BLOCK], in_q[LM_POLYNOMIALS][LM_BLOCK];
    double first[LM_BLOCK], second[LM_BLOCK], inner[LM_BLOCK];
    const ptrdiff_t k = map->k;
    for (int b = 0; b < LM_BLOCK; b++) {
        in_p[0][b] = in_q[0][b] = 1.0;
        in_p[1][b] = p[b];
        in_q[1][b] = q[b];
        first[b] = second[b] = 0.0;
    }
    for (ptrdiff_t i = 2; i < k; i++)
        for (int b = 0; b < LM_BLOCK; b++) {
            in_p[i][b] = 2 * p[b] * in_p[i - 1][b] - in_p[i - 2][b];
            in_q[i][b] = 2 * q[b] * in_q[i - 1][b] - in_q[i - 2][b];
        }
    for (ptrdiff_t i = 0; i < k; i++)
        /* The rest of the coefficients are zero: the total degree is limited. */
        for (ptrdiff_t j = 0; j < k - i; j++) {
            const double one = map->coefficients[i * k + j];
            const double two = map->coefficients[(k + i) * k + j];
            for (int b = 0; b < LM_BLOCK; b++) {
                inner[b] = in_p[i][b] * in_q[j][b];
                first[b] = first[b] + one * inner[b];
                second[b] = second[b] + two * inner[b];
            }
        }
    for (int b = 0; b < LM_BLOCK; b++) {
        x[b] = map->middle[0] + map->half[0] * first[b];
        y[b] = map->middle[1] + map->half[1] * second[b];
    }
}

/* Gnomonic coordinates of n unit vectors; NaN beyond the horizon. */
static void lm_project(const double *axes, const double *vectors, ptrdiff_t n, double *xi,
                       double *eta)
{
    for (ptrdiff_t m = 0; m < n; m++) {
        const double *v = vectors + 3 * m;
        const double w = v[0] * axes[0] + v[1] * axes[1] + v[2] * axes[2];
        xi[m] = eta[m] = NAN;
        /* Comparisons with NaN are false. */
        if (w > 0.05) {
            xi[m] = (v[0] * axes[3] + v[1] * axes[4] + v[2] * axes[5]) / w;
            eta[m] = (v[0] * axes[6] + v[1] * axes[7] + v[2] * axes[8]) / w;
        }
    }
}

/* Pixel coordinates of n unit vectors; NaN beyond the reach of the map. */
static void lm_sky_to_pixel(const lm_map *map, const double *vectors, ptrdiff_t n, double *x,
                            double *y)
{
    const double *affine = map->affine;
    double p[LM_BLOCK] = {0}, q[LM_BLOCK] = {0}, near_x[LM_BLOCK], near_y[LM_BLOCK];
    ptrdiff_t place[LM_BLOCK];
    int count = 0;
    lm_project(map->axes, vectors, n, x, y);
    for (ptrdiff_t m = 0; m < n; m++) {
        p[count] = affine[0] + affine[1] * x[m] + affine[2] * y[m];
        q[count] = affine[3] + affine[4] * x[m] + affine[5] * y[m];
        x[m] = y[m] = NAN;
        place[count] = m;
        count += fabs(p[count]) <= map->reach && fabs(q[count]) <= map->reach;
        if (count == LM_BLOCK || (m == n - 1 && count)) {
            lm_polynomials(map, p, q, near_x, near_y);
            for (int b = 0; b < count; b++) {
                x[place[b]] = near_x[b];
                y[place[b]] = near_y[b];
            }
            count = 0;
        }
    }
}

/* Products of Chebyshev polynomials up to a total degree, and the two values, at one position. */
static void lm_terms(double p, double q, const double *values, ptrdiff_t n, int degree,
                     double *terms)
{
    double in_p[LM_POLYNOMIALS] = {1.0, p}, in_q[LM_POLYNOMIALS] = {1.0, q};
    for (int i = 2; i <= degree; i++) {
        in_p[i] = 2 * p * in_p[i - 1] - in_p[i - 2];
        in_q[i] = 2 * q * in_q[i - 1] - in_q[i - 2];
    }
    for (int i = 0; i <= degree; i++)
        for (int j = 0; j <= degree - i; j++)
            *terms++ = in_p[i] * in_q[j];
    terms[0] = values[0];
    terms[1] = values[n];
}

/* Upper triangle of the sums of products of these terms at every so many of n positions.

   linear and values are 2 x n, and there are k terms and values. */
LM_CLONES static void lm_products(const double *linear, const double *values, ptrdiff_t n,
                                  ptrdiff_t step, int degree, ptrdiff_t k, double *sums)
{
    double terms[4][LM_TERMS];
    for (ptrdiff_t m = 0; m < n; m += 4 * step) {
        memset(terms, 0, sizeof terms);
        for (int b = 0; b < 4 && m + b * step < n; b++) {
            const ptrdiff_t at = m + b * step;
            lm_terms(linear[at], linear[n + at], values + at, n, degree, terms[b]);
        }
        for (ptrdiff_t i = 0; i < k; i++)
            for (ptrdiff_t j = i; j < k; j++)
                sums[k * i + j] += (terms[0][i] * terms[0][j] + terms[1][i] * terms[1][j])
                                   + (terms[2][i] * terms[2][j] + terms[3][i] * terms[3][j]);
    }
}

#endif
