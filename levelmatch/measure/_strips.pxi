# Licensed under a 3-clause BSD style license - see LICENSE.rst
# How much the cells of a pair vary together, over strips and blocks; included by `_summary.pyx`.
#
# With weights g and residuals r about the pair's plane, Q is the sum over the strips of the squares
# of sum(g r). E is its expectation if the cells are independent and vary as stated, T the square
# sum of its response to offsets of the strips: offsets of the variance t add t T to Q. Their effect
# on the normal equations is t A, with A the sum over the strips of the outer products of sum(g x),
# x being the cell's terms. All are in units of the pair's weight W = sum(g), or of its square.


cdef struct Strip:
    # Sums over a strip of g x, of g^2 v x with the cells' variances v, and of the weights for A
    # times x; of g r, and of g^2 v.
    double a[3]
    double b[3]
    double used[3]
    double q
    double u


cdef void _inverse(const double *gram, double *out) noexcept nogil:
    """Find the inverse of a normal matrix; the pseudo-inverse, in its own units, if singular."""
    cdef double scaled[9]
    cdef double work[9]
    cdef double size[3]
    cdef double column[3]
    cdef Py_ssize_t i, j
    for i in range(3):
        size[i] = sqrt(max(gram[4 * i], 1e-300))
    for i in range(9):
        scaled[i] = gram[i] / (size[i // 3] * size[i % 3])
    for j in range(3):
        for i in range(9):
            work[i] = scaled[i]
        for i in range(3):
            column[i] = 1.0 if i == j else 0.0
        if _determinant(scaled) > 1e-9:
            _solve(work, column)
        else:
            _solve_singular(work, column)
        for i in range(3):
            out[3 * i + j] = column[i] / (size[i] * size[j])


cdef inline void _times(const double *matrix, const double *vector, double *out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(3):
        out[i] = (matrix[3 * i] * vector[0] + matrix[3 * i + 1] * vector[1]
                  + matrix[3 * i + 2] * vector[2])


cdef inline double _dot(const double *a, const double *b) noexcept nogil:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


cdef Py_ssize_t _label(const CellRow *cell, Py_ssize_t family, const long long *low,
                       Py_ssize_t nx) noexcept nogil:
    """Return the strip or block of a cell: its row, column, those there, and blocks of 2 to 16."""
    cdef Py_ssize_t side
    if family == 0:
        return cell.y - low[0]
    if family == 1:
        return cell.x - low[1]
    if family == 2:
        return cell.other_y - low[2]
    if family == 3:
        return cell.other_x - low[3]
    # Shifts take a fraction of the time of divisions by 2, 4, 8 and 16.
    side = family - N_LINES + 1
    return ((cell.y - low[0]) >> side) * nx + ((cell.x - low[1]) >> side)


cdef void _sum_strips(const Strip *strips, Py_ssize_t n, const double *inverse,
                      const double *white, double total, float *out) noexcept nogil:
    """Fill the numbers of a family of strips; ``white`` is the sum of g^2 v x x^T."""
    cdef double left[3]
    cdef double right[3]
    cdef double outer[9]
    cdef double used[6]
    cdef double squares = 0.0, expected = 0.0, response = 0.0
    cdef Py_ssize_t s, i, j, k
    cdef const Strip *strip
    for i in range(9):
        outer[i] = 0.0
    for i in range(6):
        used[i] = 0.0
    for s in range(n):
        strip = strips + s
        if strip.a[0] == 0:
            continue
        _times(inverse, strip.a, left)
        _times(white, left, right)
        squares += strip.q * strip.q
        expected += strip.u - 2 * _dot(left, strip.b) + _dot(left, right)
        # The squares of W - a^T G^-1 a' over all strips a and a', the last term in the end.
        response += strip.a[0] * (strip.a[0] - 2 * _dot(left, strip.a))
        k = 0
        for i in range(3):
            for j in range(3):
                outer[3 * i + j] += left[i] * strip.a[j]
                if j <= i:
                    used[k] += strip.used[i] * strip.used[j]
                    k += 1
    for i in range(3):
        for j in range(3):
            response += outer[3 * i + j] * outer[3 * j + i]
    out[0] = <float> (squares / total)
    out[1] = <float> (max(expected, 0.0) / total)
    out[2] = <float> (max(response, 0.0) / (total * total))
    for i in range(6):
        out[3 + i] = <float> (used[i] / (total * total))


cdef struct Bounds:
    # Smallest rows and columns of the cells, in both images; columns but one of the cells in the
    # first; largest number of strips of a family.
    long long low[4]
    Py_ssize_t width
    Py_ssize_t most


cdef void _set_bounds(const Fit *fit, Bounds *bounds) noexcept nogil:
    """Set the bounds of the cells."""
    cdef long long high[4]
    cdef long long at[4]
    cdef long long *low = bounds.low
    cdef Py_ssize_t c, i
    for i in range(4):
        low[i] = 1 << 62
        high[i] = -(1 << 62)
    for c in range(fit.n):
        at[0] = fit.cells[c].y
        at[1] = fit.cells[c].x
        at[2] = fit.cells[c].other_y
        at[3] = fit.cells[c].other_x
        for i in range(4):
            low[i] = min(low[i], at[i])
            high[i] = max(high[i], at[i])
    bounds.width = high[1] - low[1]
    bounds.most = max(((high[0] - low[0]) // 2 + 1) * (bounds.width // 2 + 1),
                      max(max(high[0] - low[0], bounds.width),
                          max(high[2] - low[2], high[3] - low[3])) + 1)


cdef inline Py_ssize_t _columns(const Bounds *bounds, Py_ssize_t family) noexcept nogil:
    """Return the number of blocks of a family along a row of cells."""
    return bounds.width // (2 << (family - N_LINES)) + 1 if family >= N_LINES else 1


cdef Py_ssize_t _set_strips(Fit *fit, const Bounds *bounds, const double *used,
                            PairRow *row) noexcept nogil:
    """Set the strips of a pair; ``used`` are the weights of its normal equations. -1 for no memory.

    A cell's own weight is in proportion to its inverse variance, before its depth.
    """
    cdef double gram[9]
    cdef double inverse[9]
    cdef double white[9]
    cdef double total = 0.0, factor, g, residual, w, both
    cdef Py_ssize_t c, i, j, k, n_x, most = bounds.most
    cdef const CellRow *cell
    cdef Strip *strips
    cdef Strip *strip
    for c in range(fit.n):
        total += fit.keep[c] * fit.weight[c]
    # The stated variance of a cell over its own, and its weight over that in the plane.
    w = 0.0
    for c in range(fit.n):
        w += fit.keep[c] * fit.weight[c] * fit.weight[c] * fit.cells[c].variance
    factor = row.sigma * row.sigma * total * total / w
    strips = <Strip *> malloc(most * sizeof(Strip))
    if strips == NULL:
        return -1
    for i in range(9):
        gram[i] = 0.0
        white[i] = 0.0
    for c in range(fit.n):
        g = fit.keep[c] * fit.weight[c] / (row.sigma * row.sigma * total)
        w = g * g * factor * fit.cells[c].variance
        for i in range(3):
            for j in range(3):
                both = fit.terms[3 * c + i] * fit.terms[3 * c + j]
                gram[3 * i + j] += g * both
                white[3 * i + j] += w * both
    _inverse(gram, inverse)
    for k in range(N_FAMILIES):
        memset(strips, 0, most * sizeof(Strip))
        n_x = _columns(bounds, k)
        for c in range(fit.n):
            cell = fit.cells + c
            if fit.keep[c] == 0:
                continue
            g = fit.weight[c] / (row.sigma * row.sigma * total)
            w = g * g * factor * cell.variance
            both = sqrt(g * used[c])
            residual = fit.location[c] - _value(fit.terms + 3 * c, fit.plane)
            strip = strips + _label(cell, k, bounds.low, n_x)
            for i in range(3):
                strip.a[i] += g * fit.terms[3 * c + i]
                strip.b[i] += w * fit.terms[3 * c + i]
                strip.used[i] += both * fit.terms[3 * c + i]
            strip.q += g * residual
            strip.u += w
        _sum_strips(strips, most, inverse, white, gram[0], &row.strips[k][0])
    free(strips)
    return 0
