/* Licensed under a 3-clause BSD style license - see LICENSE.rst

   Included by `_loops.h` once for each type of pixels: T is the type, and LM_NAME(name) gives
   the function's name for it. A cell's samples are a raster of rows and columns; a sample that
   is bad or absent has the difference LM_NAME(LM_BAD) and the sum 0. */

/* Mark the bad samples among n; return the number of the others, and add their offsets to *places. */
LM_INLINE int LM_NAME(lm_mark)(T *LM_RESTRICT diff, T *LM_RESTRICT sum, int n, int *places)
{
    int count = 0, at = 0;
    for (int i = 0; i < n; i++) {
        /* Neither NaN nor infinite. */
        int good = (diff[i] > -LM_NAME(LM_BAD)) & (diff[i] < LM_NAME(LM_BAD));
        diff[i] = good ? diff[i] : LM_NAME(LM_BAD);
        sum[i] = good ? sum[i] : 0;
        count += good;
        at += good ? i : 0;
    }
    *places += at;
    return count;
}

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
    int bad = 0;
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
        diff[i] = d;
        sum[i] = va + vb;
        bad |= !((d < 0 ? -d : d) < LM_NAME(LM_BAD));
    }
    if (bad)
        return LM_NAME(lm_mark)(diff, sum, n, places);
    *places += n * (n - 1) / 2;
    return n;
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
   with and above it: each with those left and right. Where a side does not vary, the neighbours at
   the right or above are used. */
LM_INLINE T LM_NAME(lm_sides)(W low_l, W low, W low_r, W left, W own, W right, W high_l, W high,
                              W high_r, T wx, T wy, int vary_x, int vary_y)
{
    W on_x = (W) 0 - (W) (wx > 0), on_y = (W) 0 - (W) (wy > 0);
    W one = vary_x ? LM_NAME(lm_pick)(on_x, right, left) : right;
    W two = vary_y ? LM_NAME(lm_pick)(on_y, high, low) : high;
    W upper = vary_x ? LM_NAME(lm_pick)(on_x, high_r, high_l) : high_r;
    W lower = vary_x ? LM_NAME(lm_pick)(on_x, low_r, low_l) : low_r;
    T beside = LM_NAME(lm_value)(one), next = LM_NAME(lm_value)(two);
    T corner = LM_NAME(lm_value)(vary_y ? LM_NAME(lm_pick)(on_y, upper, lower) : upper);
    T value = LM_NAME(lm_value)(own), x = wx > 0 ? wx : -wx, y = wy > 0 ? wy : -wy;
    T level = value + x * (beside - value);
    return level + y * (next + x * (corner - next) - level);
}

/* The nearest whole number to one between -1 and 1. */
LM_INLINE T LM_NAME(lm_nearest)(T x)
{
    return (T) ((x >= (T) 0.5) - (x < (T) -0.5));
}

/* A row of `lm_wide`: x and y are the second image's positions from one of its pixels, `map` half of
   the inverse Jacobian. Adds the offsets from the nearest pixels to `sums`. */
LM_INLINE int LM_NAME(lm_wide_row)(
    const W *LM_RESTRICT a, const W *LM_RESTRICT b, ptrdiff_t a_right, ptrdiff_t a_up,
    ptrdiff_t b_right, ptrdiff_t b_up, int n, T x0, T y0, T dx, T dy, const T *map, int vary_x,
    int vary_y, T *LM_RESTRICT diff, T *LM_RESTRICT sum, int *places, double *sums)
{
    const W *LM_RESTRICT a00 = a - a_up - a_right, *LM_RESTRICT a01 = a - a_up;
    const W *LM_RESTRICT a02 = a - a_up + a_right, *LM_RESTRICT a10 = a - a_right;
    const W *LM_RESTRICT a12 = a + a_right, *LM_RESTRICT a20 = a + a_up - a_right;
    const W *LM_RESTRICT a21 = a + a_up, *LM_RESTRICT a22 = a + a_up + a_right;
    const W *LM_RESTRICT b00 = b - b_up - b_right, *LM_RESTRICT b01 = b - b_up;
    const W *LM_RESTRICT b02 = b - b_up + b_right, *LM_RESTRICT b10 = b - b_right;
    const W *LM_RESTRICT b12 = b + b_right, *LM_RESTRICT b20 = b + b_up - b_right;
    const W *LM_RESTRICT b21 = b + b_up, *LM_RESTRICT b22 = b + b_up + b_right;
    T xx = map[0], xy = map[1], yx = map[2], yy = map[3], half = map[4];
    T x_sum = 0, y_sum = 0;
    int bad = 0;
    for (int i = 0; i < n; i++) {
        T k = (T) i;
        T x = x0 + k * dx, y = y0 + k * dy;
        T fx = vary_x ? x - LM_NAME(lm_nearest)(x) : x;
        T fy = vary_y ? y - LM_NAME(lm_nearest)(y) : y;
        T va = LM_NAME(lm_sides)(a00[i], a01[i], a02[i], a10[i], a[i], a12[i], a20[i], a21[i],
                                 a22[i], -(xx * fx + xy * fy), -(yx * fx + yy * fy), vary_x,
                                 vary_y);
        T vb = LM_NAME(lm_sides)(b00[i], b01[i], b02[i], b10[i], b[i], b12[i], b20[i], b21[i],
                                 b22[i], x - half * fx, y - half * fy, vary_x, vary_y);
        T d = va - vb;
        diff[i] = d;
        sum[i] = va + vb;
        bad |= !((d < 0 ? -d : d) < LM_NAME(LM_BAD));
        x_sum += fx;
        y_sum += fy;
    }
    sums[2] += x_sum;
    sums[3] += y_sum;
    if (bad)
        return LM_NAME(lm_mark)(diff, sum, n, places);
    *places += n * (n - 1) / 2;
    return n;
}

/* One axis of a row: positions of its ends in the second image, of whose offset and at most `other`
   the first image's offset consists. Returns whether sides vary; else sets the nearest pixel, and
   the sides of the neighbours in both images. */
LM_INLINE int LM_NAME(lm_varies)(T first, T last, T own, T other, int *nearest, int *a_side,
                                 int *b_side)
{
    T pixel = LM_NAME(lm_nearest)(first);
    T low, high;
    if (LM_NAME(lm_nearest)(last) != pixel || (first < pixel) != (last < pixel))
        return 1;
    low = -own * (first - pixel);
    high = -own * (last - pixel);
    if ((low < 0) != (high < 0) || (low < 0 ? -low : low) < other
        || (high < 0 ? -high : high) < other)
        return 1;
    *nearest = (int) pixel;
    *a_side = low < 0 ? -1 : 1;
    *b_side = first < pixel ? -1 : 1;
    return 0;
}

/* The same as `lm_block` where neighbours, and the second image's nearest pixels, may change sides.
   The bilinear functions `w` are its positions x and y, less than one from one of its pixels. */
LM_CLONES static int LM_NAME(lm_wide)(
    const T *a, const T *b, ptrdiff_t a_right, ptrdiff_t a_up, ptrdiff_t a_next, ptrdiff_t b_right,
    ptrdiff_t b_up, ptrdiff_t b_next, int ny, int nx, const lm_weight *w, double half,
    const double *inverse, T *diff, T *sum, ptrdiff_t next, double *sums)
{
    int total = 0;
    T map[5] = {(T) inverse[0], (T) inverse[1], (T) inverse[2], (T) inverse[3], (T) half};
    T cross[2] = {map[1] < 0 ? -map[1] : map[1], map[2] < 0 ? -map[2] : map[2]};
    for (int y = 0; y < ny; y++) {
        T x0 = (T) (w[0].start + y * w[0].up), dx = (T) (w[0].along + y * w[0].twist);
        T y0 = (T) (w[1].start + y * w[1].up), dy = (T) (w[1].along + y * w[1].twist);
        T x1 = x0 + (nx - 1) * dx, y1 = y0 + (nx - 1) * dy;
        int px = 0, py = 0, ax = 1, ay = 1, bx = 1, by = 1, places = 0, count;
        /* No offset is larger than half a pixel. */
        int vary_x = LM_NAME(lm_varies)(x0, x1, map[0], cross[0] / 2, &px, &ax, &bx);
        int vary_y = LM_NAME(lm_varies)(y0, y1, map[3], cross[1] / 2, &py, &ay, &by);
        const W *one = (const W *) (a + y * a_next);
        const W *two = (const W *) (b + y * b_next) + px * b_right + py * b_up;
        LM_AHEAD(one, nx);
        LM_AHEAD(two, nx);
        x0 -= px;
        y0 -= py;
#define LM_WIDE_ROW(vary_x, vary_y) \
    LM_NAME(lm_wide_row)(one, two, ax * a_right, ay * a_up, bx * b_right, by * b_up, nx, x0, y0, \
                         dx, dy, map, vary_x, vary_y, diff + y * next, sum + y * next, &places, sums)
        if (vary_x && vary_y)
            count = LM_WIDE_ROW(1, 1);
        else if (vary_x)
            count = LM_WIDE_ROW(1, 0);
        else if (vary_y)
            count = LM_WIDE_ROW(0, 1);
        else
            count = LM_WIDE_ROW(0, 0);
#undef LM_WIDE_ROW
        sums[0] += places;
        sums[1] += (double) count * y;
        total += count;
    }
    return total;
}

/* Sum of the squared weights of a bilinear sample. */
LM_INLINE T LM_NAME(lm_variance)(T x, T y)
{
    T one = x < 0 ? -x : x, two = y < 0 ? -y : y;
    return (1 - 2 * one * (1 - one)) * (1 - 2 * two * (1 - two));
}

/* Mean over a block that `lm_wide` samples of the two images' sums of squared weights. */
LM_CLONES static double LM_NAME(lm_smooth)(int ny, int nx, const lm_weight *w, double half,
                                           const double *inverse)
{
    T xx = (T) inverse[0], xy = (T) inverse[1], yx = (T) inverse[2], yy = (T) inverse[3];
    T total = 0, share = (T) (1 - half);
    for (int i = 0; i < LM_TRIED_SIDE; i++) {
        double up = (i + 0.5) / LM_TRIED_SIDE * ny - 0.5;
        T x0 = (T) (w[0].start + up * w[0].up), dx = (T) (w[0].along + up * w[0].twist);
        T y0 = (T) (w[1].start + up * w[1].up), dy = (T) (w[1].along + up * w[1].twist);
        for (int j = 0; j < LM_TRIED_SIDE; j++) {
            T along = ((T) j + (T) 0.5) * ((T) nx / LM_TRIED_SIDE) - (T) 0.5;
            T x = x0 + along * dx, y = y0 + along * dy;
            x -= LM_NAME(lm_nearest)(x);
            y -= LM_NAME(lm_nearest)(y);
            total += LM_NAME(lm_variance)(xx * x + xy * y, yx * x + yy * y)
                     + LM_NAME(lm_variance)(share * x, share * y);
        }
    }
    return total / (LM_TRIED_SIDE * LM_TRIED_SIDE);
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
    for (int step = 0; step < LM_HALVINGS; step += 2) {
        T middle = (T) 0.5 * low + (T) 0.5 * high;
        T lower = (T) 0.5 * low + (T) 0.5 * middle, upper = (T) 0.5 * middle + (T) 0.5 * high;
        /* No number lies between. */
        if (!(low < middle && middle < high))
            break;
        /* Two steps at a time. */
        int below = 0, below_lower = 0, below_upper = 0;
        for (int i = 0; i < n; i++) {
            below += values[i] <= middle;
            below_lower += values[i] <= lower;
            below_upper += values[i] <= upper;
        }
        if (2 * below == n)
            return middle;
        if (2 * below < n) {
            low = middle;
            middle = upper;
            below = below_upper;
        } else {
            high = middle;
            middle = lower;
            below = below_lower;
        }
        if (!(low < middle && middle < high))
            break;
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

/* Add a row of a raster to the sums of its columns, see `lm_weighted`. */
LM_INLINE void LM_NAME(lm_columns)(
    const T *LM_RESTRICT values, const T *LM_RESTRICT weight, int nx, T low, T high, T centre, T y,
    T *LM_RESTRICT total, T *LM_RESTRICT square, T *LM_RESTRICT first, T *LM_RESTRICT up,
    T *LM_RESTRICT count)
{
    for (int x = 0; x < nx; x++) {
        T w = (values[x] < low) | (values[x] > high) ? (T) 0 : weight[x];
        total[x] += w;
        square[x] += w * w;
        first[x] += w * (values[x] - centre);
        up[x] += w * y;
        count[x] += w > 0 ? (T) 1 : (T) 0;
    }
}

/* Sums over the values of a raster within the bounds of their weights, of the weights' squares, of
   weighted distances from the centre, and of the weights times column and row; and the
   number of weights above zero. They are summed by columns, in `work`, 5 times a row. */
LM_CLONES static void LM_NAME(lm_weighted)(
    const T *values, const T *weight, int ny, int nx, T low, T high, T centre, double *out,
    T *work)
{
    for (int x = 0; x < 5 * nx; x++)
        work[x] = 0;
    for (int y = 0; y < ny; y++)
        LM_NAME(lm_columns)(values + y * nx, weight + y * nx, nx, low, high, centre, (T) y, work,
                            work + nx, work + 2 * nx, work + 3 * nx, work + 4 * nx);
    for (int k = 0; k < 6; k++)
        out[k] = 0;
    for (int x = 0; x < nx; x++) {
        out[0] += work[x];
        out[1] += work[nx + x];
        out[2] += work[2 * nx + x];
        out[3] += (double) work[x] * x;
        out[4] += work[3 * nx + x];
        out[5] += work[4 * nx + x];
    }
}

/* List the places of the good values outside of the bounds; return how many. Most groups of
   values have none. */
LM_CLONES static int LM_NAME(lm_find)(
    const T *LM_RESTRICT values, int n, T low, T high, int *LM_RESTRICT places)
{
    unsigned char outside[LM_CHUNK];
    int count = 0;
    for (int start = 0; start < n; start += LM_CHUNK) {
        int size = n - start < LM_CHUNK ? n - start : LM_CHUNK;
        const T *LM_RESTRICT value = values + start;
        memset(outside, 0, LM_CHUNK);
        for (int i = 0; i < size; i++)
            outside[i] = (value[i] < low) | ((value[i] > high) & (value[i] < LM_NAME(LM_BAD)));
        for (int group = 0; group < LM_CHUNK; group += sizeof(uint64_t)) {
            uint64_t any;
            memcpy(&any, outside + group, sizeof(any));
            for (int i = 0; any && i < (int) sizeof(any); i++) {
                places[count] = start + group + i;
                count += outside[group + i];
            }
        }
    }
    return count;
}

/* Whether any sample of a block is, less its level and difference, as bright as `least`. */
LM_INLINE int LM_NAME(lm_any)(const T *diff, const T *sum, ptrdiff_t next, int ny, int nx,
                              T centre, T level, T least)
{
    int any = 0;
    for (int y = 0; y < ny && !any; y++)
        for (int x = 0; x < nx; x++) {
            T d = diff[y * next + x] - centre;
            /* A bad sample's difference is far larger than its sum. */
            any |= sum[y * next + x] - level - (d > 0 ? d : -d) >= least;
        }
    return any;
}

static int LM_NAME(lm_bright)(const T *diff, const T *sum, ptrdiff_t next, int ny, int nx,
                              T centre, T level, T least)
{
    /* Without a loop for most. */
    if (nx == 2 * LM_REACH + 1)
        return LM_NAME(lm_any)(diff, sum, next, ny, 2 * LM_REACH + 1, centre, level, least);
    return LM_NAME(lm_any)(diff, sum, next, ny, nx, centre, level, least);
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

/* Mark the blocks of a strip in which all pixels are bad. */
LM_INLINE void LM_NAME(lm_empty)(const T *image, ptrdiff_t stride, int ny, int nx,
                                 T *LM_RESTRICT seen, float *LM_RESTRICT out)
{
    int whole = nx / LM_PEAK, any = 0;
    for (int i = 0; i < (nx + LM_PEAK - 1) / LM_PEAK; i++)
        any |= out[i] <= -LM_BAD_f;
    if (!any)
        return;
    for (int x = 0; x < nx; x++)
        seen[x] = 0;
    for (int y = 0; y < ny; y++) {
        const T *LM_RESTRICT row = image + y * stride;
        for (int x = 0; x < nx; x++)
            seen[x] = row[x] == row[x] ? (T) 1 : seen[x];
    }
    for (int i = 0; i < whole; i++) {
        const T *LM_RESTRICT s = seen + i * LM_PEAK;
        float low = s[0] + s[1] + s[2] + s[3] > 0 ? -LM_BAD_f : -INFINITY;
        out[i] = out[i] > -LM_BAD_f ? out[i] : low;
    }
    if (whole * LM_PEAK < nx) {
        float low = -INFINITY;
        for (int x = whole * LM_PEAK; x < nx; x++)
            low = seen[x] > 0 ? -LM_BAD_f : low;
        out[whole] = out[whole] > -LM_BAD_f ? out[whole] : low;
    }
}

/* For each block of columns the largest minimum of 2 x 2 neighbours in a strip of rows: a single
   bright pixel leaves no trace. It is minus infinity if all pixels are bad. The row after those of
   a block belongs to the next strip; `peak` has room for a row of pixels. */
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
    LM_NAME(lm_empty)(image, stride, ny < LM_PEAK ? ny : LM_PEAK, nx, peak, out);
}
