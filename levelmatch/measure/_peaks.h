/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   A maximum filter. */

#ifndef LEVELMATCH_PEAKS_H
#define LEVELMATCH_PEAKS_H

#include <string.h>

/* Raise each value of a row to that of another row, where it is larger. */
static void lm_raise(float *restrict row, const float *restrict other, ptrdiff_t n)
{
    for (ptrdiff_t x = 0; x < n; x++)
        row[x] = other[x] > row[x] ? other[x] : row[x];
}

/* Replace each value of a map by the largest of the 3 x 3 about it; `work` has room for the map. */
static void lm_dilate(float *map, ptrdiff_t ny, ptrdiff_t nx, float *work)
{
    memcpy(work, map, ny * nx * sizeof(float));
    for (ptrdiff_t y = 0; y < ny; y++) {
        lm_raise(work + y * nx, map + y * nx + 1, nx - 1);
        lm_raise(work + y * nx + 1, map + y * nx, nx - 1);
    }
    memcpy(map, work, ny * nx * sizeof(float));
    lm_raise(map, work + nx, (ny - 1) * nx);
    lm_raise(map + nx, work, (ny - 1) * nx);
}

/* The largest value of a block of a map; rows are `step` apart. */
static float lm_highest(const float *map, ptrdiff_t step, ptrdiff_t ny, ptrdiff_t nx)
{
    /* As many at a time as the compiler makes one instruction of. */
    float lanes[8];
    for (int k = 0; k < 8; k++)
        lanes[k] = map[0];
    for (ptrdiff_t y = 0; y < ny; y++) {
        const float *row = map + y * step;
        ptrdiff_t x = 0;
        for (; x + 8 <= nx; x += 8)
            for (int k = 0; k < 8; k++)
                lanes[k] = row[x + k] > lanes[k] ? row[x + k] : lanes[k];
        for (; x < nx; x++)
            lanes[0] = row[x] > lanes[0] ? row[x] : lanes[0];
    }
    for (int k = 1; k < 8; k++)
        lanes[0] = lanes[k] > lanes[0] ? lanes[k] : lanes[0];
    return lanes[0];
}

#endif
