# Licensed under a 3-clause BSD style license - see LICENSE.rst
# The effect of the wings of stars on the level of a pair; included by `_summary.pyx`.
#
# Cores of stars have a low weight or are rejected, their wings are not. If the PSFs of the images
# differ, the difference of a cell depends on the light of the stars in it and about it. A term that
# grows with this light is fitted to the cells beside the plane. The effect on the level is the
# coefficient times the mean of the term: the level of the pair minus that of cells far from all
# stars. Wings that reach farther than the light of the term raise the other cells, too, and seem
# fainter. Two terms are therefore fitted one by one. The near term is the inverse hyperbolic sine
# of the light of 3 x 3 cells: the brighter a star, the more of its near wings is rejected. The wide
# term is the square root of the light of 7 x 7 cells.

cdef enum:
    # Smallest number of cells, and of strips of a family that counts in the error.
    MIN_WING_CELLS = 12
    MIN_STRIPS = 6
    # The terms, and the cells on each side whose light is in them.
    N_WINGS = 2
    NEAR = 0
    WIDE = 1
    NEAR_REACH = 1
    WIDE_REACH = 3

cdef:
    # Smallest light of stars in and about a cell, per pixel and in units of the scatter of a cell.
    # Noise looks like stars a hundred times fainter.
    double LEAST_LIGHT = 0.1
    # Smallest fraction of the square of the term that a plane leaves.
    double LEAST_LEFT = 1e-6
    # Largest share of a strip in the jackknife.
    double MOST_SHARE = 0.95


cdef struct Term:
    # Values of the cells; their weighted mean, and the mean light. The square is that of the term
    # without a plane, zero if it is not fitted.
    double *value
    double mean
    double light
    double square
    double coefficient
    double error


cdef struct Score:
    # Sums over a strip for each term: weight times squared term, and weight times term times
    # residual.
    double square[N_WINGS]
    double product[N_WINGS]


cdef void _box_sums(const double *values, Py_ssize_t ny, Py_ssize_t nx, Py_ssize_t reach,
                    double *work, double *out) noexcept nogil:
    """Add up values over squares of 2 reach + 1 cells, along the rows and along the columns."""
    cdef Py_ssize_t y, x, d, first, last
    memset(work, 0, ny * nx * sizeof(double))
    memset(out, 0, ny * nx * sizeof(double))
    for d in range(-reach, reach + 1):
        first = max(-d, 0)
        last = nx - max(d, 0)
        for y in range(ny):
            for x in range(first, last):
                work[y * nx + x] += values[y * nx + x + d]
    for d in range(-reach, reach + 1):
        for x in range(max(-d, 0) * nx, (ny - max(d, 0)) * nx):
            out[x] += work[x + d * nx]


cdef bint _set_light(const Fit *fit, const Bounds *bounds, Term *terms) noexcept nogil:
    """Set the light of stars per pixel in each cell and those about it; False for no memory."""
    cdef Py_ssize_t ny = fit.ny - 2 - bounds.low[0], nx = bounds.width + 1, size = ny * nx, c, k
    cdef double *flux = <double *> calloc(5 * size, sizeof(double))
    cdef double *number = flux + size
    cdef double *light = flux + 2 * size
    cdef double *pixels = flux + 3 * size
    cdef Py_ssize_t at, reach
    if flux == NULL:
        return False
    for c in range(fit.n):
        at = (fit.cells[c].y - bounds.low[0]) * nx + fit.cells[c].x - bounds.low[1]
        flux[at] = fit.cells[c].star_flux
        number[at] = fit.cells[c].npix
    for k in range(N_WINGS):
        reach = NEAR_REACH if k == NEAR else WIDE_REACH
        _box_sums(flux, ny, nx, reach, flux + 4 * size, light)
        _box_sums(number, ny, nx, reach, flux + 4 * size, pixels)
        for c in range(fit.n):
            at = (fit.cells[c].y - bounds.low[0]) * nx + fit.cells[c].x - bounds.low[1]
            terms[k].value[c] = max(light[at] / pixels[at], 0.0)
    free(flux)
    return True


cdef double _jackknife(const Score *scores, Py_ssize_t n, Py_ssize_t k, double square,
                       double *number) noexcept nogil:
    """Return the jackknife error of coefficient k over strips, and set their effective number."""
    cdef double squares = 0.0, shares = 0.0, share, influence
    cdef Py_ssize_t s
    for s in range(n):
        share = scores[s].square[k] / square
        influence = scores[s].product[k] / square / (1 - min(share, MOST_SHARE))
        squares += influence * influence
        shares += share * share
    number[0] = 1 / shares
    return sqrt(squares)


cdef inline void _add_score(const Fit *fit, const Term *terms, Py_ssize_t c,
                            Score *score) noexcept nogil:
    """Add a cell to the sums of its strip."""
    cdef Py_ssize_t k
    cdef double own
    for k in range(N_WINGS):
        own = fit.z[c] * terms[k].value[c]
        score.square[k] += own * terms[k].value[c]
        score.product[k] += own * (fit.work[c] - terms[k].coefficient * terms[k].value[c])


cdef void _correlated_errors(const Fit *fit, const Bounds *bounds, Term *terms,
                             Score *scores) noexcept nogil:
    """Raise the errors to the largest of jackknives over cells, and over strips and blocks."""
    cdef Py_ssize_t c, f, k, n_x, at, n
    cdef double error, number
    memset(scores, 0, fit.n * sizeof(Score))
    for c in range(fit.n):
        _add_score(fit, terms, c, scores + c)
    for k in range(N_WINGS):
        if terms[k].square > 0:
            error = _jackknife(scores, fit.n, k, terms[k].square, &number) * _inflation(number)
            terms[k].error = max(terms[k].error, error)
    for f in range(N_FAMILIES):
        memset(scores, 0, bounds.most * sizeof(Score))
        n_x = _columns(bounds, f)
        n = 0
        for c in range(fit.n):
            if fit.z[c] == 0:
                continue
            at = _label(fit.cells + c, f, bounds.low, n_x)
            n = max(n, at + 1)
            _add_score(fit, terms, c, scores + at)
        for k in range(N_WINGS):
            if terms[k].square > 0:
                error = _jackknife(scores, n, k, terms[k].square, &number)
                if number >= MIN_STRIPS:
                    terms[k].error = max(terms[k].error, error)


cdef void _set_term(const Fit *fit, double typical, bint near, Term *term) noexcept nogil:
    """Turn the light of stars into the term without a plane, and set its mean and its square.

    The weights are in ``fit.z``. The square is zero if the term cannot be fitted.
    """
    cdef double plane[3]
    cdef double *value = term.value
    cdef double w, ratio, most = 0.0, total = 0.0, whole = 0.0, square = 0.0
    cdef Py_ssize_t c, used = 0
    for c in range(fit.n):
        w = fit.z[c]
        ratio = value[c] / typical
        most = max(most, ratio)
        used += w > 0
        total += w
        term.light += w * value[c]
        value[c] = asinh(ratio) if near else sqrt(ratio)
        term.mean += w * value[c]
        whole += w * value[c] * value[c]
    term.light /= total
    term.mean /= total
    if used < MIN_WING_CELLS or not most > LEAST_LIGHT or not isfinite(whole):
        return
    _fit(fit.terms, value, fit.z, fit.n, plane)
    for c in range(fit.n):
        value[c] -= _value(fit.terms + 3 * c, plane)
        square += fit.z[c] * value[c] * value[c]
    if square > LEAST_LEFT * whole:
        term.square = square


cdef void _fit_term(const Fit *fit, Term *term) noexcept nogil:
    """Set the coefficient, and its error from the scatter of all cells, if independent."""
    cdef const double *value = term.value
    cdef double w, residual, product = 0.0, noise = 0.0, chi2 = 0.0, expected = 0.0
    cdef Py_ssize_t c, used = 0
    for c in range(fit.n):
        product += fit.z[c] * value[c] * fit.work[c]
    term.coefficient = product / term.square
    for c in range(fit.n):
        w = fit.z[c] * fit.z[c]
        used += w > 0
        residual = fit.work[c] - term.coefficient * value[c]
        chi2 += w * residual * residual
        expected += w * fit.cells[c].variance
        noise += w * value[c] * value[c] * fit.cells[c].variance
    # The plane and the term take four cells.
    chi2 *= used / (used - 4.0) / expected
    chi2 = (PRIOR_CELLS + used * chi2) / (PRIOR_CELLS + used)
    term.error = sqrt(chi2 * noise) / term.square


cdef Py_ssize_t _set_wings(const Fit *fit, const Bounds *bounds, double *values,
                           PairRow *row) noexcept nogil:
    """Set the dependence of the cells on the light of stars, and its error; -1 for no memory.

    ``values`` has room for 2 n values.
    """
    cdef Term terms[N_WINGS]
    cdef Py_ssize_t c, k
    cdef double typical
    cdef bint fitted = False
    cdef Score *scores
    row.wings = row.wide_wings = NAN
    row.wings_error = row.wide_wings_error = INFINITY
    row.wings_term = row.wide_wings_term = row.wings_light = 0.0
    for c in range(fit.n):
        fit.work[c] = fit.cells[c].scatter
    typical = lm_median(fit.work, fit.n)
    if not typical > 0:
        return 0
    memset(terms, 0, sizeof(terms))
    for k in range(N_WINGS):
        terms[k].value = values + k * fit.n
    if not _set_light(fit, bounds, terms):
        return -1
    for c in range(fit.n):
        fit.z[c] = fit.keep[c] * fit.weight[c]
        fit.work[c] = _off(fit, c)
    for k in range(N_WINGS):
        _set_term(fit, typical, k == NEAR, &terms[k])
        if terms[k].square > 0:
            _fit_term(fit, &terms[k])
            fitted = True
    if fitted:
        scores = <Score *> malloc(max(bounds.most, fit.n) * sizeof(Score))
        if scores == NULL:
            return -1
        _correlated_errors(fit, bounds, terms, scores)
        free(scores)
    _store_wings(terms, row)
    return 0


cdef void _store_wings(const Term *terms, PairRow *row) noexcept nogil:
    """Set the numbers of a pair; a term that is not fitted has its mean only."""
    row.wings_term = terms[NEAR].mean
    row.wings_light = terms[NEAR].light
    row.wide_wings_term = terms[WIDE].mean
    if terms[NEAR].square > 0:
        row.wings = terms[NEAR].coefficient
        row.wings_error = terms[NEAR].error
    if terms[WIDE].square > 0:
        row.wide_wings = terms[WIDE].coefficient
        row.wide_wings_error = terms[WIDE].error
