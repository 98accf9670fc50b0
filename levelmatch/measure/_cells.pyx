# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The compiled kernel: differences of two images over their overlap, cell by cell."""

from typing import NamedTuple

import numpy as np

from libc.math cimport erf, exp, fabs, floor, ilogb, isinf, ldexp, log, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from "_loops.h" nogil:
    ctypedef struct lm_weight:
        double start
        double along
        double up
        double twist
    enum:
        LM_ROUGH
        LM_PEAK
        LM_REACH
    float LM_BAD_f
    double LM_BAD_d
    int lm_run_f(const float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int,
                 float, float, float, float, float, float, float, float, float *, float *, int *)
    int lm_run_d(const double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                 int, double, double, double, double, double, double, double, double,
                 double *, double *, int *)
    int lm_block_f(const float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                   Py_ssize_t, Py_ssize_t, int, int, const lm_weight *, float *, float *,
                   Py_ssize_t, double *, double *)
    int lm_block_d(const double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                   Py_ssize_t, Py_ssize_t, int, int, const lm_weight *, double *, double *,
                   Py_ssize_t, double *, double *)
    int lm_wide_f(const float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                  Py_ssize_t, Py_ssize_t, int, int, const lm_weight *, double, const double *,
                  float *, float *, Py_ssize_t, double *)
    int lm_wide_d(const double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                  Py_ssize_t, Py_ssize_t, int, int, const lm_weight *, double, const double *,
                  double *, double *, Py_ssize_t, double *)
    int lm_good_f(const float *, Py_ssize_t, int, int)
    int lm_good_d(const double *, Py_ssize_t, int, int)
    float lm_middle_f(const float *, int)
    double lm_middle_d(const double *, int)
    void lm_excess_f(const float *, const float *, int, float, float, float, double *)
    void lm_excess_d(const double *, const double *, int, double, double, double, double *)
    void lm_moments_f(const float *, const float *, int, float, float, float, float, double *)
    void lm_moments_d(const double *, const double *, int, double, double, double, double,
                      double *)
    void lm_weighted_f(const float *, const float *, int, int, float, float, float, double *,
                       float *)
    void lm_weighted_d(const double *, const double *, int, int, double, double, double, double *,
                       double *)
    double lm_smooth_f(int, int, const lm_weight *, double, const double *)
    double lm_smooth_d(int, int, const lm_weight *, double, const double *)
    int lm_find_f(const float *, int, float, float, int *)
    int lm_find_d(const double *, int, double, double, int *)
    int lm_bright_f(const float *, const float *, Py_ssize_t, int, int, float, float, float)
    int lm_bright_d(const double *, const double *, Py_ssize_t, int, int, double, double, double)
    int lm_counted_f(const float *, int, float)
    int lm_counted_d(const double *, int, double)
    void lm_peaks_f(const float *, Py_ssize_t, int, int, float *, float *)
    void lm_peaks_d(const double *, Py_ssize_t, int, int, double *, float *)

cdef extern from "_median.h" nogil:
    double lm_median(double *, Py_ssize_t)

cdef extern from "_peaks.h" nogil:
    void lm_dilate(float *, Py_ssize_t, Py_ssize_t, float *)
    float lm_highest(const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t)

__all__ = [
    "CELL",
    "Clipping",
    "Lattice",
    "difference_cells",
    "difference_samples",
    "peak_map",
    "rough_scatter",
]

ctypedef fused pixel:
    float
    double

include "_sampling.pxi"

cdef enum:
    N_ITER = 12
    # Cells that the rough scatter of a pair is found from, and the rows in the middle of each.
    N_ROUGH_CELLS = 15
    N_ROUGH_ROWS = 8
# Counts that are farther out than this many typical ones are outliers.
cdef double FAR = 20.0
# The neighbours of an outlier of so many sigma go with it: interpolation spread it.
cdef double SPREAD = 4.0
# A cell without an outlier is not clipped, if outliers are at most this many clips away, and are at
# most this fraction of the pair's samples.  With more, as of cosmic rays, fainter ones are likely.
cdef double BEYOND = 4.0 / 3.0
cdef double FEW = 0.002
# With more than this fraction of such outliers, as of cosmic rays, those of all outliers go, and
# many fainter ones are within the clip: it is narrower by this factor then.
cdef double MANY = 0.0075
cdef double NARROW = 0.75
# A difference is that of a source seen through two PSFs if it is less than this many times what
# both images show there, or within reach.  The peaks of two Gaussians differ by 7 times the
# lower one where their widths differ by 2.8 times; in the wings they differ by less of it.
cdef double SHARED = 7.0
cdef double SHARED_NEAR = 0.4
# A source is higher than noise makes the peaks, in units of the differences' scatter.
cdef double NOISE_PEAK = 2.0
# Fraction of a source's brightness by which two images of it may differ: changes of its flux,
# errors of the flux scale.  Pixels near it weigh less, as if that was noise.
cdef double UNSURE = 0.05

# A measured cell.
CELL = np.dtype(
    [
        # Weighted mean (or median) of the differences kept; mean and scatter of those that a
        # plain clip keeps, and their brightness, the mean of the two images.
        ("location", "f8"),
        ("clipped", "f8"),
        ("scatter", "f8"),
        ("brightness", "f8"),
        # Centroid in the first image, in pixels.
        ("x", "f8"),
        ("y", "f8"),
        # Variance of a sample over that of a pixel.
        ("smooth", "f8"),
        # Sums of the samples' weights, 1 but near sources, and of the weights' squares.
        ("weight", "f8"),
        ("square", "f8"),
        # Sums over all good samples of difference and brightness, minus those of the clipped
        # means: what stars add.
        ("star_diff", "f8"),
        ("star_flux", "f8"),
        # Samples kept, and good ones.
        ("kept", "i8"),
        ("good", "i8"),
    ]
)

include "_measured.pxi"


class Lattice(NamedTuple):
    """The nodes of an image's grid, and where they lie in a second image.

    Parameters
    ----------
    ys, xs : 1D `~numpy.ndarray` of intp
        Rows and columns of the nodes in the first image, ascending. The last of
        each is the last row or column of the image.
    map_x, map_y : 2D `~numpy.ndarray`, shape (len(ys), len(xs))
        Pixel coordinates of the nodes in the second image, bilinear between them.
    """

    ys: object
    xs: object
    map_x: object
    map_y: object


class Clipping(NamedTuple):
    """How the differences of a cell become its location.

    Parameters
    ----------
    clip : float
        Differences farther than this many sigma from the cell's centre are left out, unless
        both images show a source there.
    truncation : float
        Scatter of a normal variable over that of one clipped so.
    use_median : bool
        Whether the location is the median of the samples kept, not their mean.
    scatter : float
        Typical scatter of the pair, see `rough_scatter`; with 0 sources are not told from
        outliers.
    """

    clip: float
    truncation: float
    use_median: bool = False
    scatter: float = 0.0


cdef struct Limits:
    double clip
    double truncation
    bint use_median
    double scatter


cdef struct Peaks:
    # A map of sources, as if that of the whole image was there; blocks from one row to the next;
    # rows and columns of the section in memory, the upper limits excluded.
    const float *values
    Py_ssize_t step
    Py_ssize_t y0
    Py_ssize_t y1
    Py_ssize_t x0
    Py_ssize_t x1


cdef Limits _limits(clipping) except *:
    cdef Limits out
    out.clip, out.truncation, out.use_median, out.scatter = clipping
    return out


cdef int _any_good(
    const pixel *image, const Place *place, const Peaks *peaks,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1, Py_ssize_t margin,
) noexcept nogil:
    """Whether the section of a block that lies on the image has a good pixel.

    -1 if any of it, or of the image about it, is not in memory.
    """
    cdef Py_ssize_t low_y = max(y0 - margin, 0), low_x = max(x0 - margin, 0)
    cdef Py_ssize_t high_y = min(y1 + margin, place.ny), high_x = min(x1 + margin, place.nx)
    cdef const pixel *first
    if high_y <= low_y or high_x <= low_x:
        return False
    if (low_y < place.y0 or low_x < place.x0 or high_y > place.y1 or high_x > place.x1):
        return -1
    y0 = max(y0, 0)
    x0 = max(x0, 0)
    y1 = min(y1, place.ny)
    x1 = min(x1, place.nx)
    if y1 <= y0 or x1 <= x0:
        return False
    first = image + y0 * place.step + x0
    # The map of sources is sooner read than many bad pixels.
    if pixel is float:
        if lm_good_f(first, place.step, 1, x1 - x0):
            return True
        return not _is_empty(peaks, y0, y1, x0, x1) and lm_good_f(
            first, place.step, y1 - y0, x1 - x0)
    else:
        if lm_good_d(first, place.step, 1, x1 - x0):
            return True
        return not _is_empty(peaks, y0, y1, x0, x1) and lm_good_d(
            first, place.step, y1 - y0, x1 - x0)


cdef bint _is_empty(const Peaks *peaks, Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0,
                    Py_ssize_t x1) noexcept nogil:
    """Whether the map of sources excludes good pixels in a section of an image."""
    return peaks.values != NULL and isinf(_highest_peak(peaks, y0, y1 - 1, x0, x1 - 1))


cdef Place _place(const pixel[:, ::1] image, part) except *:
    """Return where the section in memory lies, from its first pixel and the image's shape."""
    cdef Place out
    out.step = image.shape[1]
    out.y0, out.x0 = (0, 0) if part is None else part[:2]
    out.ny, out.nx = (image.shape[0], image.shape[1]) if part is None else part[2:]
    out.y1 = out.y0 + image.shape[0]
    out.x1 = out.x0 + image.shape[1]
    if not (0 <= out.y0 <= out.y1 <= out.ny and 0 <= out.x0 <= out.x1 <= out.nx):
        msg = f"part {part}: not of an image of {out.ny} x {out.nx} pixels"
        raise ValueError(msg)
    return out


cdef inline Py_ssize_t _lowest(const double *corner) noexcept nogil:
    """First pixel that samples between four corners may touch; 0 where undefined."""
    cdef double low = min(min(corner[0], corner[1]), min(corner[2], corner[3]))
    return <Py_ssize_t> low - 2 if fabs(low) < 1e9 else 0


cdef inline Py_ssize_t _highest(const double *corner) noexcept nogil:
    """One more than the last pixel that samples between four corners may touch."""
    cdef double high = max(max(corner[0], corner[1]), max(corner[2], corner[3]))
    return <Py_ssize_t> high + 3 if fabs(high) < 1e9 else 0


cdef class _Pair:
    """Two images over a lattice, and the buffers for a cell."""

    cdef const Py_ssize_t[::1] ys
    cdef const Py_ssize_t[::1] xs
    cdef const double[:, ::1] map_x
    cdef const double[:, ::1] map_y
    cdef Place in_a
    cdef Place in_b
    cdef Peaks peaks_a
    cdef Peaks peaks_b
    # The largest cell's number of samples, and of columns.
    cdef Py_ssize_t size
    cdef Py_ssize_t width
    cdef object owners

    def __init__(self, lattice):
        cdef Py_ssize_t i, height = 1, width = 1
        self.ys, self.xs, self.map_x, self.map_y = lattice
        for i in range(self.ys.shape[0] - 1):
            height = max(height, self.ys[i + 1] - self.ys[i] + 1)
        for i in range(self.xs.shape[0] - 1):
            width = max(width, self.xs[i + 1] - self.xs[i] + 1)
        self.size = height * width
        self.width = width
        self.peaks_a.values = self.peaks_b.values = NULL

    cdef place(self, const pixel[:, ::1] a, const pixel[:, ::1] b, peaks, parts):
        """Set where the sections in memory, and their maps of sources, lie in the images."""
        self.in_a = _place(a, parts[0])
        self.in_b = _place(b, parts[1])
        self.owners = peaks
        self.peaks_a = _peaks_of(peaks[0], &self.in_a)
        self.peaks_b = _peaks_of(peaks[1], &self.in_b)

    cdef Box box(self, Py_ssize_t iy, Py_ssize_t ix) noexcept nogil:
        """Rows and columns of a cell."""
        cdef Box out
        out.y0 = self.ys[iy]
        out.x0 = self.xs[ix]
        # A node's row belongs to the cell above it, but for the last one.
        out.y1 = self.ys[iy + 1] + (iy == self.ys.shape[0] - 2)
        out.x1 = self.xs[ix + 1] + (ix == self.xs.shape[0] - 2)
        return out

    cdef void corners(self, Py_ssize_t iy, Py_ssize_t ix, double *x, double *y) noexcept nogil:
        """The second image's pixel coordinates at the corners of a cell."""
        cdef Py_ssize_t k
        for k in range(4):
            x[k] = self.map_x[iy + k // 2, ix + k % 2]
            y[k] = self.map_y[iy + k // 2, ix + k % 2]

    cdef bint make_map(self, Py_ssize_t iy, Py_ssize_t ix, Map *m) noexcept nogil:
        """Make the map of a cell; return whether it is defined."""
        cdef double x[4]
        cdef double y[4]
        self.corners(iy, ix, x, y)
        return _make_map(m, self.ys[iy + 1] - self.ys[iy], self.xs[ix + 1] - self.xs[ix], x, y)


cdef Peaks _peaks_of(peaks, const Place *place) except *:
    cdef Peaks out
    cdef const float[:, ::1] view
    out.values = NULL
    if peaks is None or not peaks.size:
        return out
    view = peaks
    out.step = view.shape[1]
    out.y0, out.x0 = place.y0 // LM_PEAK, place.x0 // LM_PEAK
    out.y1, out.x1 = out.y0 + view.shape[0], out.x0 + view.shape[1]
    if (LM_PEAK * out.y1 < place.y1 or LM_PEAK * out.x1 < place.x1):
        msg = f"peaks: {peaks.shape[0]} x {peaks.shape[1]} blocks, too few for the image"
        raise ValueError(msg)
    out.values = &view[0, 0] - (out.y0 * out.step + out.x0)
    return out


# --------------------------------------------------------------------------------------
# The centre and scatter of a cell


cdef int _even_subset(const pixel *values, Py_ssize_t n, Py_ssize_t good,
                      pixel *work) noexcept nogil:
    """Copy at most `LM_ROUGH` good values, evenly spread; return how many, two at least."""
    cdef Py_ssize_t i, m = n if n < LM_ROUGH else LM_ROUGH, seen = 0
    cdef Py_ssize_t at = 0, rest = 0, step = n // max(m, 1), more = n % max(m, 1)
    cdef int kept = 0
    for i in range(m):
        work[kept] = values[at]
        kept += not _is_bad(work[kept])
        # The next is i * n // m, without a division.
        at += step
        rest += more
        if rest >= m:
            rest -= m
            at += 1
    if 2 * kept < m and kept < good:
        # Most are bad, and may be so in a pattern: choose from the good ones alone.
        m = good if good < LM_ROUGH else LM_ROUGH
        kept = 0
        for i in range(n):
            if not _is_bad(values[i]):
                if seen * m // good == kept:
                    work[kept] = values[i]
                    kept += 1
                seen += 1
                if kept == m:
                    break
    # The median of an even number is found sooner.
    return kept if kept < 3 else kept - kept % 2


cdef bint _rough(const pixel *values, Py_ssize_t n, Py_ssize_t good, pixel *work,
                 double *centre, double *scale) noexcept nogil:
    """Find the median and scaled median absolute deviation of a subset of the good values.

    Returns whether they are counts: many of them equal, so that neither says much.
    """
    cdef Py_ssize_t i
    cdef int m = _even_subset(values, n, good, work)
    cdef pixel middle
    cdef bint counted
    if pixel is float:
        middle = lm_middle_f(work, m)
        counted = lm_counted_f(work, m, middle)
    else:
        middle = lm_middle_d(work, m)
        counted = lm_counted_d(work, m, middle)
    for i in range(m):
        work[i] = work[i] - middle if work[i] > middle else middle - work[i]
    centre[0] = middle
    if pixel is float:
        scale[0] = 1.482602218505602 * lm_middle_f(work, m)
    else:
        scale[0] = 1.482602218505602 * lm_middle_d(work, m)
    return counted


cdef double _typical_step(const pixel *values, Py_ssize_t n, double centre) noexcept nogil:
    """Geometric mean of the nonzero distances from the centre."""
    cdef Py_ssize_t i, number = 0
    cdef double total = 0.0, step
    for i in range(n):
        step = 0.0 if _is_bad(values[i]) else fabs(values[i] - centre)
        if step > 0:
            total += log(step)
            number += 1
    return exp(total / number) if number else 0.0


cdef inline double _power_of_two(double value) noexcept nogil:
    """Return one near a positive value, within the range of floats."""
    return ldexp(1.0, min(max(ilogb(value), -120), 120)) if value > 0 else 1.0


cdef struct Kept:
    # The bounds of the clip, the mean of the values within, and whether they are counts.
    double low
    double high
    double centre
    bint counted


cdef Kept _clip(const pixel *diff, const pixel *bright, Py_ssize_t n, const Limits *limits,
                pixel *rough, Cell *cell) noexcept nogil:
    """Clip the differences about their own centre, and describe what is kept.

    Counts, many of which are equal, are kept but for far outliers: clipping by their
    scatter would leave the most frequent value.
    """
    cdef Py_ssize_t i, kept = 0, before = -1
    cdef double centre, scale, mean, unit, clip = limits.clip, truncation = limits.truncation
    cdef double sums[4]
    cdef Kept out
    out.counted = _rough(diff, n, cell.good, rough, &centre, &scale)
    out.centre = centre
    if out.counted:
        truncation = 1.0
        clip = FAR
        scale = _typical_step(diff, n, centre)
    unit = _power_of_two(scale)
    for i in range(N_ITER):
        if i == 0 or not out.counted:
            out.low = centre - clip * scale
            out.high = centre + clip * scale
        if pixel is float:
            lm_moments_f(diff, bright, n, out.low, out.high, centre, unit, sums)
        else:
            lm_moments_d(diff, bright, n, out.low, out.high, centre, unit, sums)
        kept = <Py_ssize_t> sums[0]
        if kept == before or kept < 2:
            break
        before = kept
        mean = sums[1] / kept
        scale = truncation * sqrt(max(sums[2] / kept - mean * mean, 0.0) * kept / (kept - 1.0))
        out.centre = centre + mean
        # As the sums see it: rounded to the images' precision.
        centre = <pixel> out.centre
    cell.kept = kept
    if kept > 0:
        cell.location = out.centre
        cell.clipped = out.centre
        cell.scatter = scale
        cell.brightness = 0.5 * sums[3] / kept
        cell.weight = kept
        cell.square = kept
    return out


cdef void _narrow(Kept *kept) noexcept nogil:
    """Bring the bounds of the clip nearer to its centre."""
    kept.low = kept.centre + NARROW * (kept.low - kept.centre)
    kept.high = kept.centre + NARROW * (kept.high - kept.centre)


cdef double _lost_shift(const Kept *kept, double scatter) noexcept nogil:
    """Return the shift of a mean over that which clipping about another centre leaves of it.

    That of a normal variable, which loses more samples on one side than on the other.
    """
    cdef double bound, density
    if not scatter > 0:
        return 1.0
    bound = 0.5 * (kept.high - kept.low) / scatter
    density = sqrt(2 / 3.141592653589793) * exp(-0.5 * bound * bound)
    return 1 / (1 - min(bound * density / erf(bound / sqrt(2.0)), 0.5))


# --------------------------------------------------------------------------------------
# Sources that both images show


def peak_map(const pixel[:, ::1] image):
    """Map the brightest sources of an image, blind to single bright pixels.

    Parameters
    ----------
    image : 2D `~numpy.ndarray`
        The image, NaN where bad.

    Returns
    -------
    peaks : `~numpy.ndarray` of float32, shape (ceil(ny / 4), ceil(nx / 4))
        For each block of 4 x 4 pixels the maximum, over it and its neighbours, of
        the minimum of 2 x 2 pixels: of a star 2 pixels wide 0.3 to 0.6 of the peak. It is minus
        infinity where all pixels are bad.
    """
    cdef Py_ssize_t ny = image.shape[0], nx = image.shape[1], y, rows
    cdef Py_ssize_t n_y = (ny + LM_PEAK - 1) // LM_PEAK, n_x = (nx + LM_PEAK - 1) // LM_PEAK
    peaks_array = np.empty((n_y, n_x), np.float32)
    cdef float[:, ::1] peaks = peaks_array
    cdef float[:, ::1] work = np.empty((n_y, n_x), np.float32)
    cdef pixel *row = <pixel *> malloc((nx + 1) * sizeof(pixel))
    if row == NULL:
        raise MemoryError
    with nogil:
        for y in range(n_y):
            rows = min(LM_PEAK + 1, ny - LM_PEAK * y)
            if pixel is float:
                lm_peaks_f(&image[LM_PEAK * y, 0], nx, rows, nx, row, &peaks[y, 0])
            else:
                lm_peaks_d(&image[LM_PEAK * y, 0], nx, rows, nx, row, &peaks[y, 0])
        lm_dilate(&peaks[0, 0], n_y, n_x, &work[0, 0])
    free(row)
    return peaks_array


cdef inline Py_ssize_t _block(double at, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    """Return the block of a row or column, or the nearest of those in memory."""
    return <Py_ssize_t> min(max(at, LM_PEAK * first), LM_PEAK * stop - 1.0) // LM_PEAK


cdef double _highest_peak(const Peaks *p, double y0, double y1, double x0,
                          double x1) noexcept nogil:
    """Return the highest peak of the blocks that rows and columns reach into."""
    cdef Py_ssize_t y = _block(y0, p.y0, p.y1), x = _block(x0, p.x0, p.x1)
    return lm_highest(p.values + y * p.step + x, p.step, _block(y1, p.y0, p.y1) + 1 - y,
                      _block(x1, p.x0, p.x1) + 1 - x)


cdef bint _has_source(_Pair pair, const Box *box, const double *x, const double *y,
                      double level_a, double level_b, double scatter) noexcept nogil:
    """Whether the images with maps may all show a source in a cell, above their levels there."""
    if pair.peaks_a.values == NULL or not scatter > 0:
        return False
    return (
        _highest_peak(&pair.peaks_a, box.y0, box.y1 - 1, box.x0, box.x1 - 1)
        > level_a + NOISE_PEAK * scatter
        and (pair.peaks_b.values == NULL
             or _highest_peak(&pair.peaks_b, _lowest(y), _highest(y), _lowest(x), _highest(x))
             > level_b + NOISE_PEAK * scatter)
    )


cdef void _weigh(_Pair pair, const Box *box, const Map *m, double level_a, double level_b,
                 double scatter, pixel *weight) noexcept nogil:
    """Fill the weights of a cell's samples: smaller near a source that both images show.

    The source is as high as the lower of its two peaks. The weights are alike over it, and
    the same in all cells, so that what two PSFs move between pixels still adds up to nothing.
    """
    cdef Py_ssize_t by, bx, y, x, y0, y1, x0, x1, width = box.x1 - box.x0, there_y, there_x
    cdef Py_ssize_t first = box.x0 // LM_PEAK, number = (box.x1 - 1) // LM_PEAK + 1 - first
    cdef double dy, dx, height, off, least = level_a + NOISE_PEAK * scatter
    cdef pixel w
    cdef pixel *row = weight
    cdef const float *peaks
    for by in range(box.y0 // LM_PEAK, (box.y1 - 1) // LM_PEAK + 1):
        y0 = max(LM_PEAK * by, box.y0)
        y1 = min(LM_PEAK * (by + 1), box.y1)
        dy = 0.5 * (y0 + y1 - 1) - box.y0
        peaks = pair.peaks_a.values + by * pair.peaks_a.step
        for x in range(width):
            row[x] = 1
        for bx in range(first, first + number):
            if not peaks[bx] > least:
                continue
            x0 = max(LM_PEAK * bx, box.x0)
            x1 = min(LM_PEAK * (bx + 1), box.x1)
            dx = 0.5 * (x0 + x1 - 1) - box.x0
            height = peaks[bx] - level_a
            if pair.peaks_b.values != NULL:
                there_x = _block(
                    m.x + dx * m.dxx + dy * m.dxy + dx * dy * m.twist_x, pair.peaks_b.x0,
                    pair.peaks_b.x1)
                there_y = _block(
                    m.y + dx * m.dyx + dy * m.dyy + dx * dy * m.twist_y, pair.peaks_b.y0,
                    pair.peaks_b.y1)
                height = min(
                    height, pair.peaks_b.values[there_y * pair.peaks_b.step + there_x] - level_b)
            off = min(UNSURE * (height / scatter - NOISE_PEAK), 1e3)
            if off > 0:
                w = <pixel> (1.0 / (1.0 + off * off))
                for x in range(x0 - box.x0, x1 - box.x0):
                    row[x] = w
        for y in range(1, y1 - y0):
            memcpy(row + y * width, row, width * sizeof(pixel))
        row += (y1 - y0) * width


cdef bint _shown_by_both(const pixel *diff, const pixel *bright, Py_ssize_t ny, Py_ssize_t nx,
                         Py_ssize_t y, Py_ssize_t x, pixel centre, pixel level,
                         pixel off) noexcept nogil:
    """Whether a difference is small beside a source that both images show within reach."""
    cdef Py_ssize_t at = y * nx + x, y0 = max(y - LM_REACH, 0), x0 = max(x - LM_REACH, 0)
    cdef Py_ssize_t rows = min(y + LM_REACH + 1, ny) - y0, columns = min(x + LM_REACH + 1, nx) - x0
    cdef pixel least = <pixel> (2 / SHARED_NEAR) * off
    # Twice the lower of the two images, above its level.
    if bright[at] - level - off >= <pixel> (2 / SHARED) * off:
        return True
    at = y0 * nx + x0
    if pixel is float:
        return lm_bright_f(diff + at, bright + at, nx, rows, columns, centre, level, least)
    else:
        return lm_bright_d(diff + at, bright + at, nx, rows, columns, centre, level, least)


cdef inline void _count(double *sums, pixel *weight, pixel w, pixel off, Py_ssize_t y,
                        Py_ssize_t x) noexcept nogil:
    """Change the weight of a sample, and the sums of `lm_weighted` with it."""
    sums[0] += w - weight[0]
    sums[1] += w * w - weight[0] * weight[0]
    sums[2] += (w - weight[0]) * off
    sums[3] += (w - weight[0]) * x
    sums[4] += (w - weight[0]) * y
    sums[5] += (w > 0) - (weight[0] > 0)
    weight[0] = w


cdef void _judge_outliers(const pixel *diff, const pixel *bright, pixel *weight, Py_ssize_t ny,
                          Py_ssize_t nx, const Kept *kept, double level, double far,
                          bint sources, int *lost, double *sums) noexcept nogil:
    """Give outliers no weight but in sources, nor the neighbours of those beyond ``far``."""
    cdef Py_ssize_t y, x, i, j, k, at, n_lost = 0
    cdef int n_outside
    cdef pixel low = <pixel> kept.low, high = <pixel> kept.high, centre = <pixel> kept.centre
    cdef pixel w, off
    if pixel is float:
        n_outside = lm_find_f(diff, ny * nx, low, high, lost)
    else:
        n_outside = lm_find_d(diff, ny * nx, low, high, lost)
    for k in range(n_outside):
        at = lost[k]
        w = weight[at]
        weight[at] = 0
        off = diff[at] - centre
        if sources and _shown_by_both(diff, bright, ny, nx, at // nx, at % nx, centre,
                                      <pixel> level, off if off > 0 else -off):
            _count(sums, weight + at, w, off, at // nx, at % nx)
        elif fabs(off) > far:
            lost[n_lost] = at
            n_lost += 1
    while n_lost > 0:
        n_lost -= 1
        y = lost[n_lost] // nx
        x = lost[n_lost] % nx
        for i in range(max(y - 1, 0), min(y + 2, ny)):
            for j in range(max(x - 1, 0), min(x + 2, nx)):
                at = i * nx + j
                if low <= diff[at] <= high:
                    _count(sums, weight + at, 0, diff[at] - centre, i, j)


cdef double _median_beside_sources(const pixel *diff, const pixel *weight, Py_ssize_t n,
                                   double centre, double *work) noexcept nogil:
    """Combine the median of the samples of full weight with the mean of those near sources.

    A median would find the many pixels of a wider PSF's wings, not the few of the other's core.
    """
    cdef Py_ssize_t i, full = 0
    cdef double total = 0.0, first = 0.0
    for i in range(n):
        if _is_bad(diff[i]):
            continue
        if weight[i] == 1:
            work[full] = diff[i]
            full += 1
        elif weight[i] > 0:
            total += weight[i]
            first += weight[i] * (diff[i] - centre)
    if full > 0:
        first += full * (lm_median(work, full) - centre)
    return centre + first / (full + total)


cdef void _keep_all(Cell *cell, double centre) noexcept nogil:
    """Give all good samples of a cell the same weight; their sum is about a centre."""
    cell.kept = cell.good
    cell.weight = cell.square = cell.good
    cell.location = centre + cell.star_diff / cell.good


cdef void _locate(_Pair pair, const pixel *diff, const pixel *bright, const Box *box, const Map *m,
                  const double *x, const double *y, const Limits *limits, pixel *rough,
                  pixel *weight, int *lost, double *work, bint want_weights,
                  Cell *cell) noexcept nogil:
    """Find the location of a cell: sources that both images show stay in it, outliers do not."""
    cdef Py_ssize_t ny = box.y1 - box.y0, nx = box.x1 - box.x0, n = ny * nx, i
    cdef pixel *columns = weight + n
    cdef Kept kept = _clip(diff, bright, n, limits, rough, cell)
    cdef double level = 2 * cell.brightness, far, level_a, level_b, shift = 1.0
    cdef double sums[6]
    cdef bint sources = False, clean
    if cell.kept == 0:
        return
    far = 1e300 if kept.counted else max(limits.clip, SPREAD) * cell.scatter
    if pixel is float:
        lm_excess_f(diff, bright, n, kept.centre, level, min(far, LM_BAD_f), sums)
    else:
        lm_excess_d(diff, bright, n, kept.centre, level, far, sums)
    cell.star_diff = sums[0]
    cell.star_flux = 0.5 * sums[1]
    if not kept.counted:
        level_a = 0.5 * (level + kept.centre)
        level_b = 0.5 * (level - kept.centre)
        sources = _has_source(pair, box, x, y, level_a, level_b, limits.scatter)
    if not sources:
        cell.judged = cell.good
        cell.outliers = <Py_ssize_t> sums[2]
    # The clip would shift the mean of skewed noise, as of few photons, where nothing is an outlier.
    clean = not (sources or kept.counted) and sums[2] == 0 and SPREAD <= BEYOND * limits.clip
    if sources:
        _weigh(pair, box, m, level_a, level_b, limits.scatter, weight)
    elif sums[2] > 0 or want_weights or (limits.use_median and not kept.counted):
        for i in range(n):
            weight[i] = 1
    else:
        if clean:
            # As the sums see it: rounded to the images' precision.
            _keep_all(cell, <pixel> kept.centre)
        return
    if clean:
        kept.low, kept.high = kept.centre - far, kept.centre + far
    if sums[2] > MANY * cell.good and not sources:
        far = limits.clip * cell.scatter
        _narrow(&kept)
        shift = _lost_shift(&kept, cell.scatter)
    if pixel is float:
        lm_weighted_f(diff, weight, ny, nx, kept.low, kept.high, kept.centre, sums, columns)
    else:
        lm_weighted_d(diff, weight, ny, nx, kept.low, kept.high, kept.centre, sums, columns)
    _judge_outliers(diff, bright, weight, ny, nx, &kept, level, far, sources, lost, sums)
    cell.weight = sums[0]
    cell.square = sums[1]
    cell.kept = <Py_ssize_t> sums[5]
    if cell.kept == 0:
        return
    cell.location = <pixel> kept.centre + shift * sums[2] / sums[0]
    cell.x = box.x0 + sums[3] / sums[0] + cell.shift_x
    cell.y = box.y0 + sums[4] / sums[0] + cell.shift_y
    if limits.use_median and not kept.counted:
        cell.location = _median_beside_sources(diff, weight, n, kept.centre, work)


# --------------------------------------------------------------------------------------
# All cells of a pair


cdef void _store(const Cell *cell, MeasuredCell *row) noexcept nogil:
    row.smooth = cell.smooth
    row.kept = cell.kept
    row.good = cell.good
    if cell.kept > 0:
        row.location = cell.location
        row.clipped = cell.clipped
        row.scatter = cell.scatter
        row.brightness = cell.brightness
        row.x = cell.x
        row.y = cell.y
        row.weight = cell.weight
        row.square = cell.square
        row.star_diff = cell.star_diff
        row.star_flux = cell.star_flux


cdef void _clip_all(MeasuredCell[::1] rows) noexcept nogil:
    """Give cells whose samples all have full weight the location of a plain clip."""
    cdef Py_ssize_t i
    for i in range(rows.shape[0]):
        if rows[i].kept > 0 and rows[i].weight == rows[i].good:
            rows[i].location = rows[i].clipped


def rough_scatter(const pixel[:, ::1] a, const pixel[:, ::1] b, lattice,
                  const Py_ssize_t[:, ::1] cells, peaks=(None, None), parts=(None, None)):
    """Find the typical scatter of the differences, from rows of some cells all over the overlap.

    Parameters
    ----------
    a, b, lattice, cells, peaks, parts
        See `difference_cells`.

    Returns
    -------
    scatter : float
        Median over the cells of the scaled median absolute deviation; 0 if there is none.
    """
    cdef _Pair pair = _Pair(lattice)
    cdef Py_ssize_t n_cells = cells.shape[0], i, k, n, rows, below, found = 0
    cdef double scales[N_ROUGH_CELLS]
    cdef double centre
    cdef pixel rough[LM_ROUGH + 1]
    cdef Cell cell
    cdef Map m
    cdef Box box
    pair.place(a, b, peaks, parts)
    cdef const pixel *first = &a[0, 0] - (pair.in_a.y0 * pair.in_a.step + pair.in_a.x0)
    cdef const pixel *second = &b[0, 0] - (pair.in_b.y0 * pair.in_b.step + pair.in_b.x0)
    cdef pixel *diff = <pixel *> malloc(2 * pair.size * sizeof(pixel))
    if diff == NULL:
        raise MemoryError
    with nogil:
        for i in range(n_cells):
            # Evenly spread, however many it takes: the golden ratio's fractional parts are.
            k = <Py_ssize_t> (n_cells * ((i * 0.6180339887498949) % 1.0))
            if _readable(pair, first, second, cells[k, 0], cells[k, 1]) <= 0:
                continue
            if not pair.make_map(cells[k, 0], cells[k, 1], &m):
                continue
            box = pair.box(cells[k, 0], cells[k, 1])
            rows = min(N_ROUGH_ROWS, box.y1 - box.y0)
            below = (box.y1 - box.y0 - rows) // 2
            box.y0 += below
            box.y1 = box.y0 + rows
            m = _moved(&m, 0, below)
            _sample_cell(first, &pair.in_a, second, &pair.in_b, &box, &m, diff, diff + pair.size,
                         &cell)
            n = (box.y1 - box.y0) * (box.x1 - box.x0)
            if 2 * cell.good >= n:
                _rough(diff, n, cell.good, rough, &centre, &scales[found])
                found += 1
            if found == N_ROUGH_CELLS:
                break
    free(diff)
    return lm_median(scales, found) if found else 0.0


cdef int _readable(_Pair pair, const pixel *first, const pixel *second, Py_ssize_t iy,
                   Py_ssize_t ix) noexcept nogil:
    """Whether both images have good pixels in a cell; -1 or -2 if those are not in memory."""
    cdef Box box = pair.box(iy, ix)
    cdef double x[4]
    cdef double y[4]
    cdef int good = _any_good(first, &pair.in_a, &pair.peaks_a, box.y0, box.y1, box.x0, box.x1, 1)
    if good <= 0:
        return good
    pair.corners(iy, ix, x, y)
    good = _any_good(second, &pair.in_b, &pair.peaks_b, _lowest(y), _highest(y), _lowest(x),
                     _highest(x), 0)
    return -2 if good < 0 else good


def difference_cells(const pixel[:, ::1] a, const pixel[:, ::1] b, lattice,
                     const Py_ssize_t[:, ::1] cells, clipping, peaks=(None, None),
                     parts=(None, None)):
    """Find the robust difference of two images in each of the given cells of the first.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad, or those sections of them that the cells reach; both float32
        or both float64, C-contiguous.
    lattice : `Lattice`
        The grid of the cells.
    cells : 2D `~numpy.ndarray` of intp, shape (n, 2)
        The (y, x) index of the lower node of each cell to measure.
    clipping : `Clipping`
        How the samples of a cell become its location.
    peaks : tuple of 2D `~numpy.ndarray` or None
        The two images' maps of sources, see `peak_map`; for a section, those of its blocks.
        Without the second one, the first alone tells where sources are; without the first one,
        there are none.
    parts : tuple of tuple of int or None
        For a section, the place of its first pixel in the image, (y, x), and the image's shape.

    Returns
    -------
    cells : `~numpy.ndarray` of `CELL`, shape (n,)
        The measured cells.

    Raises
    ------
    IndexError
        If a cell reaches beyond a section.
    """
    cdef _Pair pair = _Pair(lattice)
    cdef Py_ssize_t i, iy, ix
    cdef double x[4]
    cdef double y[4]
    cdef Cell cell
    cdef Map m
    cdef Box box
    cdef Limits limits = _limits(clipping)
    cdef pixel rough[LM_ROUGH + 1]
    cdef int good = 0
    cdef Py_ssize_t judged = 0, outliers = 0
    pair.place(a, b, peaks, parts)
    # As if the whole of the images were there.
    cdef const pixel *first = &a[0, 0] - (pair.in_a.y0 * pair.in_a.step + pair.in_a.x0)
    cdef const pixel *second = &b[0, 0] - (pair.in_b.y0 * pair.in_b.step + pair.in_b.x0)
    result = np.zeros(len(cells), CELL)
    cdef MeasuredCell[::1] rows = result
    cdef double *work = <double *> malloc((pair.size + 1) * sizeof(double))
    cdef pixel *diff = <pixel *> malloc((3 * pair.size + 5 * pair.width) * sizeof(pixel))
    cdef int *lost = <int *> malloc((pair.size + 1) * sizeof(int))
    if work == NULL or diff == NULL or lost == NULL:
        free(work)
        free(diff)
        free(lost)
        raise MemoryError
    with nogil:
        for i in range(cells.shape[0]):
            iy = cells[i, 0]
            ix = cells[i, 1]
            good = _readable(pair, first, second, iy, ix)
            if good < 0:
                break
            if not good or not pair.make_map(iy, ix, &m):
                continue
            box = pair.box(iy, ix)
            _sample_cell(first, &pair.in_a, second, &pair.in_b, &box, &m, diff, diff + pair.size,
                         &cell)
            if cell.good > 0:
                pair.corners(iy, ix, x, y)
                _locate(pair, diff, diff + pair.size, &box, &m, x, y, &limits, rough,
                        diff + 2 * pair.size, lost, work, False, &cell)
            _store(&cell, &rows[i])
            judged += cell.judged
            outliers += cell.outliers
        if outliers > FEW * judged and not limits.use_median:
            _clip_all(rows)
    free(work)
    free(diff)
    free(lost)
    if good < 0:
        msg = f"part_{'a' if good == -1 else 'b'}: cell {i} reaches beyond the part in memory"
        raise IndexError(msg)
    return result


def difference_samples(const pixel[:, ::1] a, const pixel[:, ::1] b, lattice, cell, clipping,
                       peaks=(None, None)):
    """Return every difference of one cell, for plots and for the tests of `difference_cells`.

    Parameters
    ----------
    a, b, lattice, clipping, peaks
        See `difference_cells`.
    cell : tuple of int
        The (y, x) index of the cell's lower node.

    Returns
    -------
    samples : `~numpy.ndarray`, shape (n,)
        With the fields ``difference``, first image minus second, ``brightness``, their mean,
        both of the images' type; ``y`` and ``x``, the pixel of the first image; and ``weight``,
        that of the sample in the cell's location, 0 for outliers. The samples of a cell without
        an outlier have full weight also where the pair has many, which clips them.
    """
    cdef _Pair pair = _Pair(lattice)
    cdef Py_ssize_t iy = cell[0], ix = cell[1], n
    cdef double x[4]
    cdef double y[4]
    cdef Cell out
    cdef Map m
    cdef Box box = pair.box(iy, ix)
    cdef Limits limits = _limits(clipping)
    cdef pixel rough[LM_ROUGH + 1]
    pair.place(a, b, peaks, (None, None))
    dtype = np.float32 if pixel is float else np.float64
    n = (box.y1 - box.y0) * (box.x1 - box.x0)
    values = np.zeros(3 * n + 5 * pair.width, dtype)
    cdef pixel[::1] value = values
    cdef int[::1] lost = np.empty(n + 1, np.intc)
    cdef double[::1] work = np.empty(n + 1)
    good = np.zeros(n, bool)
    if pair.make_map(iy, ix, &m):
        _sample_cell(&a[0, 0], &pair.in_a, &b[0, 0], &pair.in_b, &box, &m, &value[0],
                     &value[n], &out)
        if out.good > 0:
            pair.corners(iy, ix, x, y)
            _locate(pair, &value[0], &value[n], &box, &m, x, y, &limits, rough,
                    &value[2 * n], &lost[0], &work[0], True, &out)
        good = values[:n] != dtype(_bad(&value[0]))
    rows, columns = np.divmod(np.flatnonzero(good), box.x1 - box.x0)
    kinds = [("difference", dtype), ("brightness", dtype), ("y", "i4"), ("x", "i4"),
             ("weight", dtype)]
    samples = np.empty(len(rows), kinds)
    samples["difference"] = values[:n][good]
    samples["brightness"] = 0.5 * values[n : 2 * n][good]
    samples["y"] = rows + box.y0
    samples["x"] = columns + box.x0
    samples["weight"] = values[2 * n : 3 * n][good]
    return samples
