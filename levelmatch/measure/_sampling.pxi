# Licensed under a 3-clause BSD style license - see LICENSE.rst
# Sample two images at the pixels of one cell; included by `_cells.pyx`.
#
# Both images are sampled bilinearly at the point midway, on the sky, between a pixel of the first
# and the nearest pixel of the second.  The two are smoothed alike, so neither skewed noise nor the
# curvature of an undersampled star changes its sign with the direction of the comparison.
#
# The samples of a cell are a raster of its rows and columns: differences, and sums, of the two
# images.  A sample that is bad or does not exist has the difference LM_BAD and the sum 0.

# Below this fraction of a pixel a position counts as the pixel's centre, so
# images on one grid need no neighbours.
cdef double SNAP = 1e-3
# Sampling a block at once is tried if the map's Jacobian differs from one by less than this, the
# absolute values of all elements added up.
cdef double ALIKE = 0.1
# Largest distance, in pixels, of positions in the second image from one of its pixels for which
# its neighbours suffice.
cdef double WITHIN = 0.999
cdef enum:
    # Least number of rows and columns of a block that is sampled at once.
    MIN_BLOCK = 16


cdef struct Cell:
    # Sums over the samples, made means by `_sample_cell`: offsets of the samples from the first
    # image's pixels, variance of a sample over that of a pixel, and place of the good samples.
    double shift_x
    double shift_y
    double smooth
    double x
    double y
    # Twice the number of samples whose pixels exist; number of those that are good.
    Py_ssize_t samples
    Py_ssize_t good
    # See `CELL`.
    double location
    double clipped
    double scatter
    double brightness
    double weight
    double square
    Py_ssize_t kept
    double star_diff
    double star_flux
    # Samples, and outliers among them, of a cell without a source; else 0.
    Py_ssize_t judged
    Py_ssize_t outliers


cdef struct Place:
    # Shape of an image; rows and columns of the section in memory, the upper limits excluded;
    # pixels from one row in memory to the next.
    Py_ssize_t ny
    Py_ssize_t nx
    Py_ssize_t y0
    Py_ssize_t y1
    Py_ssize_t x0
    Py_ssize_t x1
    Py_ssize_t step


cdef struct Box:
    # Rows and columns of a cell, the upper limits excluded.
    Py_ssize_t y0
    Py_ssize_t y1
    Py_ssize_t x0
    Py_ssize_t x1


cdef struct Map:
    # Pixel coordinates in the second image, bilinear over a cell: at its first pixel, and their
    # changes with the column, the row, and both.
    double x
    double y
    double dxx
    double dyx
    double dxy
    double dyy
    double twist_x
    double twist_y
    # Fraction of the way between the two pixels that the first image's sample is off its pixel,
    # and the inverse Jacobian times it.
    double half
    double ixx
    double ixy
    double iyx
    double iyy


cdef inline Py_ssize_t _steps(double value, double step, double low, double high) noexcept nogil:
    """Number of steps, at least one, that a linear function stays within (low, high)."""
    cdef double n = 1e9
    if step > 0:
        n = (high - value) / step
    elif step < 0:
        n = (low - value) / step
    # The bound comes before the cast: a tiny step gives more than an integer holds.
    return <Py_ssize_t> min(n, 1e9) + 1 if n > 0 else 1


cdef inline bint _stays(double first, double last, double reach) noexcept nogil:
    """Whether a linear function keeps its sign and stays within reach."""
    return (first < 0.0) == (last < 0.0) and -reach < last < reach


cdef inline Py_ssize_t _side(double first, double last, Py_ssize_t stride) noexcept nogil:
    """Offset of the neighbour to interpolate with; 0 where all weights are next to nothing."""
    if fabs(first) < SNAP and fabs(last) < SNAP:
        return 0
    return stride if first + last > 0 else -stride


cdef void _sample_row(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y, Py_ssize_t x0, Py_ssize_t x1, double t, const Map *m,
    pixel *diff, pixel *bright, Cell *cell,
) noexcept nogil:
    """Fill one row of a raster.

    The row falls into runs in which the nearest pixel of the second image moves
    along with that of the first, and all neighbours lie on the same side.
    """
    cdef Py_ssize_t x = x0, run, rx, ry, k0, k1
    cdef Py_ssize_t a_right, a_up, b_right, b_up, lowest
    cdef double start_x = m.x + t * m.dxy, start_y = m.y + t * m.dyy
    cdef double along_x = m.dxx + t * m.twist_x, along_y = m.dyx + t * m.twist_y
    cdef double qx, qy, fx, fy, ax, ay, dax, day, last, sx, sy, middle
    cdef int places, count
    # Within a run the nearest pixel moves by one column per step, and by no row.
    cdef double dfx = along_x - 1.0, dfy = along_y
    dax = -(m.ixx * dfx + m.ixy * dfy)
    day = -(m.iyx * dfx + m.iyy * dfy)
    while x < x1:
        qx = start_x + (x - x0) * along_x
        qy = start_y + (x - x0) * along_y
        if not (qx > -1.0 and qy > -1.0 and qx < in_b.nx and qy < in_b.ny):
            x += 1
            continue
        # Rounding by truncation, for positions above -1.
        rx = <Py_ssize_t> (qx + 1.5) - 1
        ry = <Py_ssize_t> (qy + 1.5) - 1
        fx = qx - rx
        fy = qy - ry
        ax = -(m.ixx * fx + m.ixy * fy)
        ay = -(m.iyx * fx + m.iyy * fy)
        run = x1 - x
        last = run - 1
        if not (
            _stays(fx, fx + last * dfx, 0.5) and _stays(fy, fy + last * dfy, 0.5)
            and _stays(ax, ax + last * dax, 1.0) and _stays(ay, ay + last * day, 1.0)
        ):
            run = min(run, _steps(fx, dfx, -0.5 if fx < 0 else 0.0, 0.0 if fx < 0 else 0.5))
            run = min(run, _steps(fy, dfy, -0.5 if fy < 0 else 0.0, 0.0 if fy < 0 else 0.5))
            run = min(run, _steps(ax, dax, -1.0 if ax < 0 else 0.0, 0.0 if ax < 0 else 1.0))
            run = min(run, _steps(ay, day, -1.0 if ay < 0 else 0.0, 0.0 if ay < 0 else 1.0))
        last = run - 1
        a_right = _side(ax, ax + last * dax, 1)
        a_up = _side(ay, ay + last * day, in_a.step)
        b_right = _side(fx, fx + last * dfx, 1)
        b_up = _side(fy, fy + last * dfy, in_b.step)
        # The section of the run whose neighbours exist.
        k0 = max(0, -min(rx, rx + b_right))
        k0 = max(k0, -(x + a_right))
        k1 = min(run, in_b.nx - max(rx, rx + b_right))
        k1 = min(k1, in_a.nx - max(x, x + a_right))
        lowest = min(y * in_a.step + a_up, (ry if ry < 0 else 0) * in_b.step)
        if (
            ry >= 0 and ry < in_b.ny and ry * in_b.step + b_up >= 0
            and ry * in_b.step + b_up < in_b.ny * in_b.step
            and lowest >= 0 and y * in_a.step + a_up < in_a.ny * in_a.step and k1 > k0
        ):
            middle = 0.5 * (k0 + k1 - 1)
            cell.shift_x += (k1 - k0) * (ax + middle * dax)
            cell.shift_y += (k1 - k0) * (ay + middle * day)
            sx = -1.0 if a_right < 0 else (1.0 if a_right > 0 else 0.0)
            sy = -1.0 if a_up < 0 else (1.0 if a_up > 0 else 0.0)
            cell.smooth += (k1 - k0) * _variance(
                sx * (ax + middle * dax), sy * (ay + middle * day))
            ax = sx * (ax + k0 * dax)
            ay = sy * (ay + k0 * day)
            dax *= sx
            day *= sy
            places = 0
            count = _sample_run(
                a + y * in_a.step + x + k0, b + ry * in_b.step + rx + k0, a_right, a_up,
                b_right, b_up, k1 - k0, ax, ay, fx + k0 * dfx, fy + k0 * dfy, dax, day, dfx, dfy,
                1.0 - m.half, diff + x + k0 - x0, bright + x + k0 - x0, &places, cell,
            )
            dax = -(m.ixx * dfx + m.ixy * dfy)
            day = -(m.iyx * dfx + m.iyy * dfy)
            cell.good += count
            cell.x += count * <double> (x + k0) + places
            cell.y += count * <double> y
        x += run


cdef inline double _variance(double wx, double wy) noexcept nogil:
    """Sum of the squared weights of a bilinear sample."""
    return (1.0 - 2.0 * wx * (1.0 - wx)) * (1.0 - 2.0 * wy * (1.0 - wy))


cdef inline int _sample_run(
    const pixel *a, const pixel *b, Py_ssize_t a_right, Py_ssize_t a_up,
    Py_ssize_t b_right, Py_ssize_t b_up, Py_ssize_t n, double ax, double ay, double fx, double fy,
    double dax, double day, double dfx, double dfy, double share,
    pixel *diff, pixel *bright, int *places, Cell *cell,
) noexcept nogil:
    """Difference consecutive pixels; the second image's offsets are a fraction of (fx, fy)."""
    cdef double sx = -share if b_right < 0 else (share if b_right > 0 else 0.0)
    cdef double sy = -share if b_up < 0 else (share if b_up > 0 else 0.0)
    cdef double middle = 0.5 * (n - 1)
    cell.smooth += n * _variance(sx * (fx + middle * dfx), sy * (fy + middle * dfy))
    cell.samples += 2 * n
    if pixel is float:
        return lm_run_f(a, b, a_right, a_up, b_right, b_up, n, ax, ay, sx * fx, sy * fy,
                        dax, day, sx * dfx, sy * dfy, diff, bright, places)
    else:
        return lm_run_d(a, b, a_right, a_up, b_right, b_up, n, ax, ay, sx * fx, sy * fy,
                        dax, day, sx * dfx, sy * dfy, diff, bright, places)


cdef enum:
    # Neighbours on both sides, besides -1, 0 and 1.
    BOTH = 2


cdef inline bint _find_side(const double *w, double reach, int *side) noexcept nogil:
    """Find the side of the neighbours for four corners' offsets; return whether all are in reach.

    It is 0 where all weights are next to nothing.
    """
    cdef double low = min(min(w[0], w[1]), min(w[2], w[3]))
    cdef double high = max(max(w[0], w[1]), max(w[2], w[3]))
    if fabs(low) < SNAP and fabs(high) < SNAP:
        side[0] = 0
    elif low >= 0.0:
        side[0] = 1
    else:
        side[0] = -1 if high <= 0.0 else BOTH
    # Also false for NaN.
    return low >= -reach and high <= reach


cdef inline bint _is_inside(Py_ssize_t start, Py_ssize_t stop, int side, bint wide,
                            Py_ssize_t n) noexcept nogil:
    """Whether rows or columns and their neighbours are those of an image of n."""
    cdef Py_ssize_t before = side != 0 and (wide or side < 0)
    cdef Py_ssize_t after = side != 0 and (wide or side > 0)
    return start - before >= 0 and stop + after <= n


cdef bint _sample_block(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1, const Map *m,
    pixel *diff, pixel *bright, Py_ssize_t width, Cell *cell,
) noexcept nogil:
    """Fill a block of a raster at once, if possible; return whether it was.

    It is where the two images' pixels are so much alike that over the block the
    nearest pixel stays the same step away, or one of two.
    """
    cdef Py_ssize_t nx = x1 - x0, ny = y1 - y0, rx, ry, k
    cdef double right = nx - 1, top = ny - 1, share = 1.0 - m.half
    # Offsets at the corners, sides and weights: in the first image along x and y, in the second.
    cdef double at[4][4]
    cdef int side[4]
    cdef double sign[4]
    cdef double inverse[4]
    cdef lm_weight w[4]
    cdef lm_weight o[2]
    # Sums over the good samples of column and row, and over all of the offsets.
    cdef double sums[4]
    cdef double most[2]
    cdef int good
    cdef bint wide = False
    if not (fabs(m.x) < 1e9 and fabs(m.y) < 1e9):
        return False
    o[0] = lm_weight(m.x, m.dxx - 1.0, m.dxy, m.twist_x)
    o[1] = lm_weight(m.y, m.dyx, m.dyy - 1.0, m.twist_y)
    rx = <Py_ssize_t> floor(_weight(&o[0], 0.5 * right, 0.5 * top) + 0.5)
    ry = <Py_ssize_t> floor(_weight(&o[1], 0.5 * right, 0.5 * top) + 0.5)
    o[0].start -= rx
    o[1].start -= ry
    inverse[:] = [m.ixx, m.ixy, m.iyx, m.iyy]
    most[:] = [0.0, 0.0]
    for k in range(4):
        at[2][k] = _weight(&o[0], right * (k % 2), top * (k // 2))
        at[3][k] = _weight(&o[1], right * (k % 2), top * (k // 2))
        at[0][k] = -(m.ixx * at[2][k] + m.ixy * at[3][k])
        at[1][k] = -(m.iyx * at[2][k] + m.iyy * at[3][k])
        most[0] = max(most[0], fabs(at[2][k]))
        most[1] = max(most[1], fabs(at[3][k]))
    if most[0] > 0.5 or most[1] > 0.5:
        # The nearest pixel changes. No offset from it is larger than half a pixel.
        wide = True
        for k in range(2):
            sign[k] = (fabs(inverse[2 * k]) * min(most[0], 0.5)
                       + fabs(inverse[2 * k + 1]) * min(most[1], 0.5))
            at[k][:] = [-sign[k], sign[k], -sign[k], sign[k]]
    for k in range(4):
        if not _find_side(at[k], 1.0 if k < 2 else WITHIN, &side[k]):
            return False
        wide = wide or side[k] == BOTH
    if not (
        _is_inside(x0, x1, side[0], wide, in_a.nx) and _is_inside(y0, y1, side[1], wide, in_a.ny)
        and _is_inside(rx, rx + nx, side[2], wide, in_b.nx)
        and _is_inside(ry, ry + ny, side[3], wide, in_b.ny)
    ):
        return False
    for k in range(4):
        side[k] = side[k] != 0 if wide else side[k]
        sign[k] = side[k]
    sums[:] = [0.0, 0.0, 0.0, 0.0]
    if wide:
        if pixel is float:
            good = lm_wide_f(
                a + y0 * in_a.step + x0, b + ry * in_b.step + rx, side[0], side[1] * in_a.step,
                in_a.step, side[2], side[3] * in_b.step, in_b.step, ny, nx, o, m.half, inverse,
                diff, bright, width, sums)
            cell.smooth += nx * ny * lm_smooth_f(ny, nx, o, m.half, inverse)
        else:
            good = lm_wide_d(
                a + y0 * in_a.step + x0, b + ry * in_b.step + rx, side[0], side[1] * in_a.step,
                in_a.step, side[2], side[3] * in_b.step, in_b.step, ny, nx, o, m.half, inverse,
                diff, bright, width, sums)
            cell.smooth += nx * ny * lm_smooth_d(ny, nx, o, m.half, inverse)
    else:
        w[0] = _mix(-sign[0] * m.ixx, &o[0], -sign[0] * m.ixy, &o[1])
        w[1] = _mix(-sign[1] * m.iyx, &o[0], -sign[1] * m.iyy, &o[1])
        w[2] = _mix(share * sign[2], &o[0], 0.0, &o[1])
        w[3] = _mix(0.0, &o[0], share * sign[3], &o[1])
        if pixel is float:
            good = lm_block_f(
                a + y0 * in_a.step + x0, b + ry * in_b.step + rx, side[0], side[1] * in_a.step,
                in_a.step, side[2], side[3] * in_b.step, in_b.step, ny, nx, w, diff, bright, width,
                &sums[0], &sums[1])
        else:
            good = lm_block_d(
                a + y0 * in_a.step + x0, b + ry * in_b.step + rx, side[0], side[1] * in_a.step,
                in_a.step, side[2], side[3] * in_b.step, in_b.step, ny, nx, w, diff, bright, width,
                &sums[0], &sums[1])
        sums[2] = nx * ny * _weight(&o[0], 0.5 * right, 0.5 * top)
        sums[3] = nx * ny * _weight(&o[1], 0.5 * right, 0.5 * top)
        cell.smooth += nx * ny * _mean_variance(w, ny, nx)
    cell.samples += 2 * nx * ny
    cell.good += good
    cell.x += sums[0] + good * <double> x0
    cell.y += sums[1] + good * <double> y0
    cell.shift_x -= m.ixx * sums[2] + m.ixy * sums[3]
    cell.shift_y -= m.iyx * sums[2] + m.iyy * sums[3]
    return True


cdef double _mean_variance(const lm_weight *w, Py_ssize_t ny, Py_ssize_t nx) noexcept nogil:
    """Mean over a block of the two images' sums of squared weights."""
    cdef double total = 0.0, x = 0.5 * (nx - 1), y
    cdef Py_ssize_t i
    # Over the rows by Simpson's rule: the weights are linear along each.
    for i in range(3):
        y = 0.5 * i * (ny - 1)
        total += (4.0 if i == 1 else 1.0) / 6.0 * (
            _variance(_weight(&w[0], x, y), _weight(&w[1], x, y))
            + _variance(_weight(&w[2], x, y), _weight(&w[3], x, y)))
    return total


cdef inline double _weight(const lm_weight *w, double x, double y) noexcept nogil:
    return w.start + x * w.along + y * w.up + x * y * w.twist


cdef inline lm_weight _mix(double s, const lm_weight *a, double t, const lm_weight *b) noexcept nogil:
    """Return the weighted sum of two bilinear functions."""
    cdef lm_weight out
    out.start = s * a.start + t * b.start
    out.along = s * a.along + t * b.along
    out.up = s * a.up + t * b.up
    out.twist = s * a.twist + t * b.twist
    return out


cdef bint _make_map(Map *m, double height, double width,
                    const double *x, const double *y) noexcept nogil:
    """Make a cell's map of the second image's coordinates at its corners; false if undefined."""
    cdef double jxx, jxy, jyx, jyy, det
    jxx = 0.5 * (x[1] - x[0] + x[3] - x[2]) / width
    jxy = 0.5 * (x[2] - x[0] + x[3] - x[1]) / height
    jyx = 0.5 * (y[1] - y[0] + y[3] - y[2]) / width
    jyy = 0.5 * (y[2] - y[0] + y[3] - y[1]) / height
    det = jxx * jyy - jxy * jyx
    # Also false for NaN corners: where the second image's WCS is not defined.
    if not fabs(det) > 1e-12:
        return False
    # Half of the way, or less where the second image's pixels are so much larger that half
    # would reach beyond the first one's next pixel.
    m.half = min(0.5, 2 * fabs(det) / max(fabs(jyy) + fabs(jxy), fabs(jyx) + fabs(jxx)))
    m.ixx = m.half * jyy / det
    m.ixy = -m.half * jxy / det
    m.iyx = -m.half * jyx / det
    m.iyy = m.half * jxx / det
    m.x = x[0]
    m.y = y[0]
    m.dxx = (x[1] - x[0]) / width
    m.dyx = (y[1] - y[0]) / width
    m.dxy = (x[2] - x[0]) / height
    m.dyy = (y[2] - y[0]) / height
    m.twist_x = (x[3] - x[2] - x[1] + x[0]) / (width * height)
    m.twist_y = (y[3] - y[2] - y[1] + y[0]) / (width * height)
    return True


cdef inline Map _moved(const Map *m, double x, double y) noexcept nogil:
    """Return the map about another first pixel, some columns and rows away."""
    cdef Map out = m[0]
    out.x += x * m.dxx + y * m.dxy + x * y * m.twist_x
    out.y += x * m.dyx + y * m.dyy + x * y * m.twist_y
    out.dxx += y * m.twist_x
    out.dyx += y * m.twist_y
    out.dxy += x * m.twist_x
    out.dyy += x * m.twist_y
    return out


cdef inline bint _alike(const Map *m) noexcept nogil:
    return fabs(m.dxx - 1.0) + fabs(m.dxy) + fabs(m.dyx) + fabs(m.dyy - 1.0) < ALIKE


cdef void _sample_section(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1, const Map *m,
    pixel *diff, pixel *bright, Py_ssize_t width, Cell *cell,
) noexcept nogil:
    """Fill a section of a raster: at once if possible, else by quarters, and small ones by rows."""
    cdef Py_ssize_t i, y, ym = (y0 + y1) // 2, xm = (x0 + x1) // 2, top, bottom, left, right, at
    cdef Map quarter
    cdef bint alike = _alike(m)
    if alike and _sample_block(
        a, in_a, b, in_b, y0, y1, x0, x1, m, diff, bright, width, cell
    ):
        return
    if alike and y1 - y0 >= 2 * MIN_BLOCK and x1 - x0 >= 2 * MIN_BLOCK:
        for i in range(4):
            bottom = ym if i // 2 else y0
            top = y1 if i // 2 else ym
            left = xm if i % 2 else x0
            right = x1 if i % 2 else xm
            quarter = _moved(m, left - x0, bottom - y0)
            at = (bottom - y0) * width + left - x0
            _sample_section(
                a, in_a, b, in_b, bottom, top, left, right, &quarter, diff + at, bright + at,
                width, cell,
            )
        return
    for y in range(y0, y1):
        at = (y - y0) * width
        _sample_row(a, in_a, b, in_b, y, x0, x1, y - y0, m, diff + at, bright + at, cell)


cdef void _sample_cell(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b, const Box *box,
    const Map *m, pixel *diff, pixel *bright, Cell *cell,
) noexcept nogil:
    """Fill the raster of a cell, and the means of its samples' places."""
    cdef Py_ssize_t width = box.x1 - box.x0, i
    memset(cell, 0, sizeof(Cell))
    if not (_alike(m) and _sample_block(
        a, in_a, b, in_b, box.y0, box.y1, box.x0, box.x1, m, diff, bright, width, cell
    )):
        for i in range((box.y1 - box.y0) * width):
            diff[i] = _bad(diff)
            bright[i] = 0
        _sample_section(a, in_a, b, in_b, box.y0, box.y1, box.x0, box.x1, m, diff, bright, width,
                        cell)
    cell.smooth = cell.smooth / cell.samples if cell.samples else 1.0
    if cell.good > 0:
        # Samples lie midway between the two images' pixels, not on the first's.
        cell.shift_x = 2 * cell.shift_x / cell.samples
        cell.shift_y = 2 * cell.shift_y / cell.samples
        cell.x = cell.x / cell.good + cell.shift_x
        cell.y = cell.y / cell.good + cell.shift_y


cdef inline pixel _bad(const pixel *_) noexcept nogil:
    if pixel is float:
        return LM_BAD_f
    else:
        return LM_BAD_d


cdef inline bint _is_bad(pixel value) noexcept nogil:
    return value == _bad(&value)
