/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Map from unit vectors to pixels: an affine map and a polynomial on top of it. */

#ifndef LEVELMATCH_MAP_H
#define LEVELMATCH_MAP_H

#include <math.h>
#include <stddef.h>

/* Compiled twice, with AVX2 and without, where glibc chooses when the module is loaded. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define LM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define LM_CLONES
#endif

/* Most polynomials of one coordinate, and number of positions that are evaluated together: enough
   for the compiler to vectorise the loops over them instead of unrolling them. */
enum { LM_POLYNOMIALS = 16, LM_BLOCK = 32 };

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

/* Upper triangle of the sums of products of k columns at n positions, four positions at a time. */
LM_CLONES static void lm_products(const double *values, ptrdiff_t n, ptrdiff_t k, double *sums)
{
    for (ptrdiff_t m = 0; m < n; m += 4) {
        const ptrdiff_t left = n - m;
        const double *a = values + k * m;
        const double *b = left > 1 ? a + k : a, *c = left > 2 ? a + 2 * k : a;
        const double *d = left > 3 ? a + 3 * k : a;
        for (ptrdiff_t i = 0; i < k; i++) {
            const double ai = a[i], bi = left > 1 ? b[i] : 0.0;
            const double ci = left > 2 ? c[i] : 0.0, di = left > 3 ? d[i] : 0.0;
            for (ptrdiff_t j = i; j < k; j++)
                sums[k * i + j] += (ai * a[j] + bi * b[j]) + (ci * c[j] + di * d[j]);
        }
    }
}

#endif
