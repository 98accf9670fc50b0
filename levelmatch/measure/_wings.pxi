# Licensed under a 3-clause BSD style license - see LICENSE.rst
# The effect of the wings of stars on the level of a pair; included by `_summary.pyx`.
#
# Cores of stars have a low weight or are rejected, their wings are not. If the PSFs of the images
# differ, the difference of a cell depends on the light of the stars in it and about it. A term that
# grows with this light is fitted to the cells beside the plane. The effect on the level is the
# coefficient times the mean of the term: the level of the pair minus that of cells far from all
# stars.

cdef enum:
    # Smallest number of cells, and of strips of a family that counts in the error.
    MIN_WING_CELLS = 12
    MIN_STRIPS = 6

cdef:
    # Smallest light of stars in and about a cell, per pixel and in units of the scatter of a cell.
    # Noise looks like stars a hundred times fainter.
    double LEAST_LIGHT = 0.1
    # Smallest fraction of the square of the term that a plane leaves.
    double LEAST_LEFT = 1e-6
    # Largest share of a strip in the jackknife.
    double MOST_SHARE = 0.95


cdef struct Score:
    # Sums over a strip: weight times squared term, and weight times term times residual.
    double square
    double product


cdef double _star_light(const Fit *fit, Py_ssize_t c) noexcept nogil:
    """Return the light of stars per pixel in a cell and the eight about it."""
    cdef Py_ssize_t at = (fit.cells[c].y + 1) * fit.nx + fit.cells[c].x + 1, dy, dx, k
    cdef double light = 0.0, number = 0.0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            k = fit.number[at + dy * fit.nx + dx] - 1
            if k >= 0:
                light += fit.cells[k].star_flux
                number += fit.cells[k].npix
    return max(light / number, 0.0)


cdef double _jackknife(const Score *scores, Py_ssize_t n, double square,
                       double *number) noexcept nogil:
    """Return the jackknife error of a coefficient over strips, and set their effective number."""
    cdef double squares = 0.0, shares = 0.0, share, influence
    cdef Py_ssize_t s
    for s in range(n):
        share = scores[s].square / square
        influence = scores[s].product / square / (1 - min(share, MOST_SHARE))
        squares += influence * influence
        shares += share * share
    number[0] = 1 / shares
    return sqrt(squares)


cdef double _correlated_error(const Fit *fit, const Bounds *bounds, const double *term,
                              double coefficient, double square, Score *scores) noexcept nogil:
    """Return the largest jackknife error over cells, and over strips and blocks of them."""
    cdef Py_ssize_t c, k, n_x
    cdef double error, number, out, residual
    cdef Score *score
    for c in range(fit.n):
        residual = fit.work[c] - coefficient * term[c]
        scores[c].square = fit.z[c] * term[c] * term[c]
        scores[c].product = fit.z[c] * term[c] * residual
    out = _jackknife(scores, fit.n, square, &number)
    out *= _inflation(number)
    for k in range(N_FAMILIES):
        memset(scores, 0, bounds.most * sizeof(Score))
        n_x = _columns(bounds, k)
        for c in range(fit.n):
            if fit.z[c] == 0:
                continue
            residual = fit.work[c] - coefficient * term[c]
            score = scores + _label(fit.cells + c, k, bounds.low, n_x)
            score.square += fit.z[c] * term[c] * term[c]
            score.product += fit.z[c] * term[c] * residual
        error = _jackknife(scores, bounds.most, square, &number)
        if number >= MIN_STRIPS:
            out = max(out, error)
    return out


cdef bint _set_term(const Fit *fit, double *term, PairRow *row) noexcept nogil:
    """Set the term of the light of stars without a plane, its mean, and the mean light.

    The weights are set in ``fit.z``, and the residuals about the plane in ``fit.work``. Return
    whether the term can be fitted.
    """
    cdef double plane[3]
    cdef double w, light, typical, most_light = 0.0, total = 0.0, whole = 0.0, square = 0.0
    cdef Py_ssize_t c, used = 0
    for c in range(fit.n):
        fit.work[c] = fit.cells[c].scatter
    typical = lm_median(fit.work, fit.n)
    if not typical > 0:
        return False
    for c in range(fit.n):
        light = _star_light(fit, c)
        term[c] = asinh(light / typical)
        w = fit.keep[c] * fit.weight[c]
        fit.z[c] = w
        used += w > 0
        total += w
        most_light = max(most_light, light)
        row.wings_light += w * light
        row.wings_term += w * term[c]
        whole += w * term[c] * term[c]
    row.wings_light /= total
    row.wings_term /= total
    if used < MIN_WING_CELLS or not most_light > LEAST_LIGHT * typical or not isfinite(whole):
        return False
    _fit(fit.terms, term, fit.z, fit.n, plane)
    for c in range(fit.n):
        term[c] -= _value(fit.terms + 3 * c, plane)
        fit.work[c] = fit.location[c] - _value(fit.terms + 3 * c, fit.plane)
        square += fit.z[c] * term[c] * term[c]
    return square > LEAST_LEFT * whole


cdef double _independent_error(const Fit *fit, const double *term, double coefficient,
                               double square) noexcept nogil:
    """Return the error of the coefficient from the scatter of all cells, if independent."""
    cdef double w, residual, noise = 0.0, chi2 = 0.0, expected = 0.0
    cdef Py_ssize_t c, used = 0
    for c in range(fit.n):
        w = fit.z[c] * fit.z[c]
        used += w > 0
        residual = fit.work[c] - coefficient * term[c]
        chi2 += w * residual * residual
        expected += w * fit.cells[c].variance
        noise += w * term[c] * term[c] * fit.cells[c].variance
    # The plane and the term take four cells.
    chi2 *= used / (used - 4.0) / expected
    chi2 = (PRIOR_CELLS + used * chi2) / (PRIOR_CELLS + used)
    return sqrt(chi2 * noise) / square


cdef Py_ssize_t _set_wings(const Fit *fit, const Bounds *bounds, double *term,
                           PairRow *row) noexcept nogil:
    """Set the dependence of the cells on the light of stars, and its error; -1 for no memory.

    ``term`` has room for n values.
    """
    cdef double square = 0.0, product = 0.0, error
    cdef Py_ssize_t c
    cdef Score *scores
    row.wings = NAN
    row.wings_error = INFINITY
    row.wings_term = 0.0
    row.wings_light = 0.0
    if not _set_term(fit, term, row):
        return 0
    scores = <Score *> malloc(max(bounds.most, fit.n) * sizeof(Score))
    if scores == NULL:
        return -1
    for c in range(fit.n):
        square += fit.z[c] * term[c] * term[c]
        product += fit.z[c] * term[c] * fit.work[c]
    row.wings = product / square
    error = _correlated_error(fit, bounds, term, row.wings, square, scores)
    row.wings_error = max(error, _independent_error(fit, term, row.wings, square))
    free(scores)
    return 0
