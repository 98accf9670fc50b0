/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Included by `_loops.h` once for each type of pixels: T is the type, and LM_NAME(name) gives
   the function's name for it. A cell's samples are a raster of rows and columns; a sample that
   is bad or absent has the difference LM_NAME(LM_BAD) and the sum 0. */

/* Differences and sums of n consecutive pixels of two images. Both images are interpolated
   bilinearly between a pixel and its neighbours at `right` and `up`; the weights are linear
   along the run. Returns the number of good samples, and adds their offsets to *places. */
LM_INLINE int LM_NAME(lm_row)(
    const T *LM_RESTRICT a, const T *LM_RESTRICT b, ptrdiff_t a_right, ptrdiff_t a_up,
    ptrdiff_t b_right, ptrdiff_t b_up, int n, T ax, T ay, T bx, T by, T dax, T day, T dbx, T dby,
    T *LM_RESTRICT diff, T *LM_RESTRICT sum, int *places)
{
    const T *LM_RESTRICT a01 = a + a_right, *LM_RESTRICT a10 = a + a_up;
    const T *LM_RESTRICT a11 = a + a_up + a_right;
    const T *LM_RESTRICT b01 = b + b_right, *LM_RESTRICT b10 = b + b_up;
    const T *LM_RESTRICT b11 = b + b_up + b_right;
    int count = 0, at = 0;
    LM_AHEAD(a, n);
    LM_AHEAD(b, n);
    for (int i = 0; i < n; i++) {
        T k = (T) i;
        T wx = ax + k * dax, wy = ay + k * day;
        T low = a[i] + wx * (a01[i] - a[i]);
        T high = a10[i] + wx * (a11[i] - a10[i]);
        T va = low + wy * (high - low);
        wx = bx + k * dbx;
        wy = by + k * dby;
        low = b[i] + wx * (b01[i] - b[i]);
        high = b10[i] + wx * (b11[i] - b10[i]);
        T vb = low + wy * (high - low);
        T d = va - vb;
        /* Neither NaN nor infinite. */
        int good = (d > -LM_NAME(LM_BAD)) & (d < LM_NAME(LM_BAD));
        diff[i] = good ? d : LM_NAME(LM_BAD);
        sum[i] = good ? va + vb : 0;
        count += good;
        at += good ? i : 0;
    }
    *places += at;
    return count;
}

LM_CLONES static int LM_NAME(lm_run)(
    const T *a, const T *b, ptrdiff_t a_right, ptrdiff_t a_up, ptrdiff_t b_right, ptrdiff_t b_up,
    int n, T ax, T ay, T bx, T by, T dax, T day, T dbx, T dby, T *diff, T *sum, int *places)
{
    return LM_NAME(lm_row)(a, b, a_right, a_up, b_right, b_up, n, ax, ay, bx, by, dax, day, dbx,
                           dby, diff, sum, places);
}

/* The same for a block of rows, in which the neighbours of each image stay on one side; rows
   of the output are `next` apart. */
LM_CLONES static int LM_NAME(lm_block)(
    const T *a, const T *b, ptrdiff_t a_right, ptrdiff_t a_up, ptrdiff_t a_next, ptrdiff_t b_right,
    ptrdiff_t b_up, ptrdiff_t b_next, int ny, int nx, const lm_weight *w, T *diff, T *sum,
    ptrdiff_t next, double *x_sum, double *y_sum)
{
    int total = 0;
    for (int y = 0; y < ny; y++) {
        int places = 0;
        int count = LM_NAME(lm_row)(
            a + y * a_next, b + y * b_next, a_right, a_up, b_right, b_up, nx,
            (T) (w[0].start + y * w[0].up), (T) (w[1].start + y * w[1].up),
            (T) (w[2].start + y * w[2].up), (T) (w[3].start + y * w[3].up),
            (T) (w[0].along + y * w[0].twist), (T) (w[1].along + y * w[1].twist),
            (T) (w[2].along + y * w[2].twist), (T) (w[3].along + y * w[3].twist),
            diff + y * next, sum + y * next, &places);
        *x_sum += places;
        *y_sum += (double) count * y;
        total += count;
    }
    return total;
}

/* The bits of one value where a mask is set, and those of another elsewhere. A choice of values
   would be a branch, and keep the compiler from vectorising. */
LM_INLINE W LM_NAME(lm_pick)(W mask, W one, W other)
{
    return (one & mask) | (other & ~mask);
}

LM_INLINE T LM_NAME(lm_value)(W word)
{
    union {
        W word;
        T value;
    } bits;
    bits.word = word;
    return bits.value;
}

/* A pixel interpolated to the side that the sign of each weight tells, from the pixels below, level
   with and above it: each with those left and right. */
LM_INLINE T LM_NAME(lm_sides)(W low_l, W low, W low_r, W left, W own, W right, W high_l, W high,
                              W high_r, T wx, T wy)
{
    W on_x = (W) 0 - (W) (wx > 0), on_y = (W) 0 - (W) (wy > 0);
    T beside = LM_NAME(lm_value)(LM_NAME(lm_pick)(on_x, right, left));
    T next = LM_NAME(lm_value)(LM_NAME(lm_pick)(on_y, high, low));
    T corner = LM_NAME(lm_value)(LM_NAME(lm_pick)(on_y, LM_NAME(lm_pick)(on_x, high_r, high_l),
                                                  LM_NAME(lm_pick)(on_x, low_r, low_l)));
    T value = LM_NAME(lm_value)(own), x = wx > 0 ? wx : -wx, y = wy > 0 ? wy : -wy;
    T one = value + x * (beside - value);
    T two = next + x * (corner - next);
    return one + y * (two - one);
}

/* The same as `lm_row` where neighbours may change sides: positive weights are those of the
   neighbours at `right` and `up`, negative ones of those opposite. */
LM_INLINE int LM_NAME(lm_wide_row)(
    const W *LM_RESTRICT a, const W *LM_RESTRICT b, ptrdiff_t a_right, ptrdiff_t a_up,
    ptrdiff_t b_right, ptrdiff_t b_up, int n, T ax, T ay, T bx, T by, T dax, T day, T dbx, T dby,
    T *LM_RESTRICT diff, T *LM_RESTRICT sum, int *places)
{
    const W *LM_RESTRICT a00 = a - a_up - a_right, *LM_RESTRICT a01 = a - a_up;
    const W *LM_RESTRICT a02 = a - a_up + a_right, *LM_RESTRICT a10 = a - a_right;
    const W *LM_RESTRICT a12 = a + a_right, *LM_RESTRICT a20 = a + a_up - a_right;
    const W *LM_RESTRICT a21 = a + a_up, *LM_RESTRICT a22 = a + a_up + a_right;
    const W *LM_RESTRICT b00 = b - b_up - b_right, *LM_RESTRICT b01 = b - b_up;
    const W *LM_RESTRICT b02 = b - b_up + b_right, *LM_RESTRICT b10 = b - b_right;
    const W *LM_RESTRICT b12 = b + b_right, *LM_RESTRICT b20 = b + b_up - b_right;
    const W *LM_RESTRICT b21 = b + b_up, *LM_RESTRICT b22 = b + b_up + b_right;
    int count = 0, at = 0;
    LM_AHEAD(a, n);
    LM_AHEAD(b, n);
    for (int i = 0; i < n; i++) {
        T k = (T) i;
        T va = LM_NAME(lm_sides)(a00[i], a01[i], a02[i], a10[i], a[i], a12[i], a20[i], a21[i],
                                 a22[i], ax + k * dax, ay + k * day);
        T vb = LM_NAME(lm_sides)(b00[i], b01[i], b02[i], b10[i], b[i], b12[i], b20[i], b21[i],
                                 b22[i], bx + k * dbx, by + k * dby);
        T d = va - vb;
        int good = (d > -LM_NAME(LM_BAD)) & (d < LM_NAME(LM_BAD));
        diff[i] = good ? d : LM_NAME(LM_BAD);
        sum[i] = good ? va + vb : 0;
        count += good;
        at += good ? i : 0;
    }
    *places += at;
    return count;
}

LM_CLONES static int LM_NAME(lm_wide)(
    const T *a, const T *b, ptrdiff_t a_right, ptrdiff_t a_up, ptrdiff_t a_next, ptrdiff_t b_right,
    ptrdiff_t b_up, ptrdiff_t b_next, int ny, int nx, const lm_weight *w, T *diff, T *sum,
    ptrdiff_t next, double *x_sum, double *y_sum)
{
    int total = 0;
    for (int y = 0; y < ny; y++) {
        int places = 0;
        int count = LM_NAME(lm_wide_row)(
            (const W *) (a + y * a_next), (const W *) (b + y * b_next), a_right, a_up, b_right,
            b_up, nx, (T) (w[0].start + y * w[0].up), (T) (w[1].start + y * w[1].up),
            (T) (w[2].start + y * w[2].up), (T) (w[3].start + y * w[3].up),
            (T) (w[0].along + y * w[0].twist), (T) (w[1].along + y * w[1].twist),
            (T) (w[2].along + y * w[2].twist), (T) (w[3].along + y * w[3].twist),
            diff + y * next, sum + y * next, &places);
        *x_sum += places;
        *y_sum += (double) count * y;
        total += count;
    }
    return total;
}

/* The median of n values: a value of the middle two, or a number between them, found by halving
   the range that holds it, which needs no sorting. */
LM_CLONES static T LM_NAME(lm_middle)(const T *LM_RESTRICT values, int n)
{
    T low = values[0], high = values[0];
    for (int i = 1; i < n; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    int least = 0;
    for (int i = 0; i < n; i++)
        least += values[i] <= low;
    if (2 * least >= n)
        return low;
    for (int step = 0; step < LM_HALVINGS; step++) {
        T middle = (T) 0.5 * low + (T) 0.5 * high;
        /* No number lies between. */
        if (!(low < middle && middle < high))
            break;
        int below = 0;
        for (int i = 0; i < n; i++)
            below += values[i] <= middle;
        if (2 * below == n)
            return middle;
        if (2 * below < n)
            low = middle;
        else
            high = middle;
    }
    /* The largest value up to there is the median, exactly. */
    T found = low;
    for (int i = 0; i < n; i++)
        found = values[i] <= high && values[i] > found ? values[i] : found;
    return found;
}

/* Count, sum and sum of squares about the centre of the values within the bounds, and the sum
   of a second array there. In units of `unit`, a power of two, so that squares neither
   overflow nor vanish. */
LM_CLONES static void LM_NAME(lm_moments)(
    const T *LM_RESTRICT values, const T *LM_RESTRICT other, int n, T low, T high, T centre, T unit,
    double *out)
{
    T inverse = 1 / unit;
    out[0] = out[1] = out[2] = out[3] = 0;
    for (int start = 0; start < n; start += LM_CHUNK) {
        int stop = n - start < LM_CHUNK ? n : start + LM_CHUNK;
        T count = 0, first = 0, second = 0, third = 0;
        for (int i = start; i < stop; i++) {
            /* One factor alone, so that 0 times anything is 0 in any order. */
            T in = (values[i] < low) | (values[i] > high) ? (T) 0 : inverse;
            T d = (values[i] - centre) * in;
            count += in;
            first += d;
            second += d * d;
            third += in * other[i];
        }
        out[0] += count;
        out[1] += first;
        out[2] += second;
        out[3] += third;
    }
    out[0] *= unit;
    out[3] *= unit;
    out[1] *= unit;
    out[2] *= (double) unit * unit;
}

/* Sums over the values of a raster within the bounds of their weights, of the weights' squares, of
   weighted distances from the centre, and of the weights times column and row; and the
   number of weights above zero. Row by row the number of values outside of the bounds goes
   to `outside`, bad ones included. */
LM_CLONES static void LM_NAME(lm_weighted)(
    const T *LM_RESTRICT values, const T *LM_RESTRICT weight, int ny, int nx, T low, T high,
    T centre, double *out, int *LM_RESTRICT outside)
{
    for (int k = 0; k < 6; k++)
        out[k] = 0;
    for (int y = 0; y < ny; y++, values += nx, weight += nx) {
        T total = 0, square = 0, first = 0, along = 0;
        int count = 0, off = 0;
        for (int x = 0; x < nx; x++) {
            int bad = (values[x] < low) | (values[x] > high);
            T w = bad ? (T) 0 : weight[x];
            total += w;
            square += w * w;
            first += w * (values[x] - centre);
            along += w * (T) x;
            count += w > 0;
            off += bad & (values[x] < LM_NAME(LM_BAD));
        }
        out[0] += total;
        out[1] += square;
        out[2] += first;
        out[3] += along;
        out[4] += (double) total * y;
        out[5] += count;
        outside[y] = off;
    }
}

/* List the places of the good values outside of the bounds; return how many. Most groups of
   values have none. */
LM_CLONES static int LM_NAME(lm_find)(
    const T *LM_RESTRICT values, int n, T low, T high, int first, int *LM_RESTRICT places)
{
    int count = 0;
    for (int start = 0; start < n; start += LM_GROUP) {
        int stop = n - start < LM_GROUP ? n : start + LM_GROUP, any = 1;
        if (stop - start == LM_GROUP) {
            any = 0;
            for (int i = 0; i < LM_GROUP; i++)
                any |= (values[start + i] < low) | (values[start + i] > high);
        }
        for (int i = start; any && i < stop; i++) {
            places[count] = first + i;
            count += (values[i] < low) | ((values[i] > high) & (values[i] < LM_NAME(LM_BAD)));
        }
    }
    return count;
}

/* Whether so many of n values are equal that clipping would make all of them equal: few
   photons, or noise lost in rounding. */
LM_CLONES static int LM_NAME(lm_counted)(const T *LM_RESTRICT values, int n, T middle)
{
    for (int k = 0; k < LM_TRIED; k++) {
        T one = k == 0 ? middle : k == 1 ? (T) 0 : values[k * n / LM_TRIED];
        int same = 0;
        for (int i = 0; i < n; i++)
            same += values[i] == one;
        if (same > LM_EQUAL * n)
            return 1;
    }
    return 0;
}

/* Whether a block of an image has any good pixel. */
LM_CLONES static int LM_NAME(lm_good)(const T *image, ptrdiff_t stride, int ny, int nx)
{
    for (int y = 0; y < ny; y++) {
        int good = 0;
        for (int x = 0; x < nx; x++)
            good |= image[y * stride + x] == image[y * stride + x];
        if (good)
            return 1;
    }
    return 0;
}

/* Sums over all good samples of the distances of differences and sums from given values, and the
   number of differences farther away than `far`. */
LM_CLONES static void LM_NAME(lm_excess)(
    const T *LM_RESTRICT diff, const T *LM_RESTRICT sum, int n, T diff0, T sum0, T far,
    double *out)
{
    int beyond = 0;
    out[0] = out[1] = 0;
    for (int start = 0; start < n; start += LM_CHUNK) {
        int stop = n - start < LM_CHUNK ? n : start + LM_CHUNK;
        T first = 0, second = 0;
        for (int i = start; i < stop; i++) {
            T good = diff[i] < LM_NAME(LM_BAD) ? (T) 1 : (T) 0;
            T d = good * (diff[i] - diff0);
            first += d;
            second += good * (sum[i] - sum0);
            beyond += (d > far) | (d < -far);
        }
        out[0] += first;
        out[1] += second;
    }
    out[2] = beyond;
}

/* For each block of columns the largest minimum of 2 x 2 neighbours in a strip of rows: a single
   bright pixel leaves no trace. The last of the rows belongs to the next strip; `peak` has room
   for a row of pixels. */
LM_CLONES static void LM_NAME(lm_peaks)(
    const T *image, ptrdiff_t stride, int ny, int nx, T *LM_RESTRICT peak,
    float *LM_RESTRICT out)
{
    for (int x = 0; x < nx; x++)
        peak[x] = -LM_NAME(LM_BAD);
    for (int y = 0; y + 1 < ny; y++) {
        const T *LM_RESTRICT row = image + y * stride, *LM_RESTRICT next = row + stride;
        for (int x = 0; x + 1 < nx; x++) {
            T one = row[x] < next[x] ? row[x] : next[x];
            T two = row[x + 1] < next[x + 1] ? row[x + 1] : next[x + 1];
            T least = one < two ? one : two;
            /* False for NaN. */
            peak[x] = least > peak[x] ? least : peak[x];
        }
    }
    int whole = nx / LM_PEAK;
    for (int i = 0; i < whole; i++) {
        const T *p = peak + i * LM_PEAK;
        T one = p[0] > p[1] ? p[0] : p[1], two = p[2] > p[3] ? p[2] : p[3];
        out[i] = (float) (one > two ? one : two);
    }
    for (int x = whole * LM_PEAK; x < nx; x++)
        out[whole] = x == whole * LM_PEAK || peak[x] > out[whole] ? (float) peak[x] : out[whole];
}
