# Licensed under a 3-clause BSD style license - see LICENSE.rst
# Compare the flux scales of a pair by its stars and its extended emission; see _summary.pyx.


cdef bint _nebula_gain(const double *all_terms, const double *location, const double *brightness,
                       const double *variance, const double *weight, Py_ssize_t n_all,
                       double *work, Ranked *ranked, double *gain, double *error) noexcept nogil:
    """Slope of the cells' levels against their brightness; false where it is not determined.

    Its error is the scatter between blocks of cells, each left out in turn: emission
    that no plane follows is alike over many cells.  ``work`` is of 6 n.
    """
    cdef double *terms = work
    cdef double *bright = work + 3 * n_all
    cdef double *level = work + 4 * n_all
    cdef double *w = work + 5 * n_all
    cdef double plane[3]
    cdef double low[2]
    cdef double high[2]
    cdef double square[N_BLOCKS]
    cdef double cross[N_BLOCKS]
    cdef double noise = 0.0, signal = 0.0, all_square = 0.0, all_cross = 0.0, mean = 0.0, part
    cdef double spread = 0.0
    cdef Py_ssize_t c, i, n = 0, axis
    for c in range(n_all):
        if weight[c] > 0:
            for i in range(3):
                terms[3 * n + i] = all_terms[3 * c + i]
            bright[n] = brightness[c]
            level[n] = location[c]
            w[n] = weight[c]
            noise += weight[c] * variance[c]
            n += 1
    if n < MIN_GAIN_CELLS:
        return False
    # What of the brightness a plane does not follow, and of the levels neither.
    _fit(terms, bright, w, n, plane)
    for c in range(n):
        bright[c] -= _value(terms + 3 * c, plane)
        signal += w[c] * bright[c] * bright[c]
    # The two images' noise enters difference and brightness both: it would pass for a
    # slope if it made up the brightness.
    if not signal / n > MIN_CONTRAST * (noise / n) / 4:
        return False
    _fit(terms, level, w, n, plane)
    for c in range(n):
        level[c] -= _value(terms + 3 * c, plane)
    # Blocks along the overlap's longer side.
    for i in range(2):
        low[i] = terms[1 + i]
        high[i] = terms[1 + i]
        for c in range(n):
            low[i] = min(low[i], terms[3 * c + 1 + i])
            high[i] = max(high[i], terms[3 * c + 1 + i])
    axis = 2 if high[1] - low[1] > high[0] - low[0] else 1
    for c in range(n):
        ranked[c].value = terms[3 * c + axis]
        ranked[c].place = c
    qsort(ranked, n, sizeof(Ranked), _compare)
    for i in range(N_BLOCKS):
        square[i] = 0.0
        cross[i] = 0.0
    for i in range(n):
        c = ranked[i].place
        square[i * N_BLOCKS // n] += w[c] * bright[c] * bright[c]
        cross[i * N_BLOCKS // n] += w[c] * bright[c] * level[c]
    for i in range(N_BLOCKS):
        all_square += square[i]
        all_cross += cross[i]
    for i in range(N_BLOCKS):
        if not all_square - square[i] > 0:
            return False
        mean += (all_cross - cross[i]) / (all_square - square[i]) / N_BLOCKS
    for i in range(N_BLOCKS):
        part = (all_cross - cross[i]) / (all_square - square[i]) - mean
        spread += part * part / N_BLOCKS
    gain[0] = all_cross / all_square
    error[0] = max(sqrt(spread) * sqrt(N_BLOCKS - 1.0), 1 / sqrt(all_square))
    return True


cdef double _weighted_median(Ranked *ranked, Py_ssize_t n) noexcept nogil:
    """Value at which the weights below first reach half of all; the array is sorted."""
    cdef double total = 0.0, below = 0.0
    cdef Py_ssize_t i
    qsort(ranked, n, sizeof(Ranked), _compare)
    for i in range(n):
        total += ranked[i].weight
    for i in range(n):
        below += ranked[i].weight
        if below >= 0.5 * total:
            return ranked[i].value
    return ranked[n - 1].value


cdef bint _star_gain(const double *star_diff, const double *star_flux, const double *variance,
                     const double *npix, const Py_ssize_t *index, Py_ssize_t n,
                     Py_ssize_t ny, Py_ssize_t nx, double *planes, double *work, Ranked *ranked,
                     double *gain, double *error) noexcept nogil:
    """Median over the stars of their differences over their fluxes; false if they are few.

    A star is a cell with more excess flux than its eight neighbours, all nine
    taken together: seeing differs from night to night, a large aperture does not care.
    ``planes`` is zero, of three times (ny, nx); ``work`` of 2 n.
    """
    cdef double *diff = planes
    cdef double *flux = planes + ny * nx
    cdef double *noise = planes + 2 * ny * nx
    cdef double sums[3]
    cdef double limit, scatter, total = 0.0, squares = 0.0
    cdef Py_ssize_t c, at, dy, dx, there, count = 0
    cdef bint peak
    for c in range(n):
        at = (index[2 * c] + 1) * nx + index[2 * c + 1] + 1
        diff[at] = star_diff[c]
        flux[at] = star_flux[c]
        noise[at] = variance[c] * npix[c] * npix[c]
    for c in range(n):
        at = (index[2 * c] + 1) * nx + index[2 * c + 1] + 1
        peak = flux[at] > 0
        sums[0] = 0.0
        sums[1] = 0.0
        sums[2] = 0.0
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                there = at + dy * nx + dx
                peak = peak and flux[there] <= flux[at]
                sums[0] += diff[there]
                sums[1] += flux[there]
                sums[2] += noise[there]
        if peak and sums[1] > STAR_SIGMA * sqrt(sums[2]):
            ranked[count].value = sums[0] / sums[1]
            ranked[count].weight = sums[1] / sqrt(sums[2])
            ranked[count].place = count
            work[count] = ranked[count].weight
            count += 1
    if count < MIN_STARS:
        return False
    # The brightest are the first to be saturated.
    limit = 2 * lm_median(work, count)
    for c in range(count):
        ranked[c].weight = min(ranked[c].weight, limit)
        total += ranked[c].weight
        squares += ranked[c].weight * ranked[c].weight
    gain[0] = _weighted_median(ranked, count)
    for c in range(count):
        ranked[c].value = fabs(ranked[c].value - gain[0])
    # A few stars may agree by chance: their fluxes are good to 5 % each, no better.
    scatter = hypot(1.4826 * _weighted_median(ranked, count), STAR_SCATTER)
    error[0] = 1.2533 * scatter / sqrt(max(total * total / squares - 1, 0.5))
    return True
