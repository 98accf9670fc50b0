# Licensed under a 3-clause BSD style license - see LICENSE.rst
# Weighted least squares of a plane; included by `_summary.pyx`.

cdef inline double _value(const double *term, const double *plane) noexcept nogil:
    return plane[0] + term[1] * plane[1] + term[2] * plane[2]


cdef void _normal(const double *terms, const double *values, const double *weight, Py_ssize_t n,
                  double *gram, double *rhs) noexcept nogil:
    """Normal matrix (3 x 3) and right-hand side of a plane."""
    cdef Py_ssize_t c, i, j
    cdef double w
    for i in range(9):
        gram[i] = 0.0
    for i in range(3):
        rhs[i] = 0.0
    for c in range(n):
        for i in range(3):
            w = weight[c] * terms[3 * c + i]
            rhs[i] += w * values[c]
            for j in range(i + 1):
                gram[3 * i + j] += w * terms[3 * c + j]
    gram[1] = gram[3]
    gram[2] = gram[6]
    gram[5] = gram[7]


cdef double _determinant(const double *m) noexcept nogil:
    return (m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6])
            + m[2] * (m[3] * m[7] - m[4] * m[6]))


cdef void _solve(double *m, double *x) noexcept nogil:
    """Solve a positive definite 3 x 3 system in place, by Cholesky's factors."""
    cdef Py_ssize_t i, j, k
    for i in range(3):
        for j in range(i + 1):
            for k in range(j):
                m[3 * i + j] -= m[3 * i + k] * m[3 * j + k]
            if i == j:
                m[3 * i + i] = sqrt(max(m[3 * i + i], 1e-300))
            else:
                m[3 * i + j] /= m[3 * j + j]
    for i in range(3):
        for k in range(i):
            x[i] -= m[3 * i + k] * x[k]
        x[i] /= m[3 * i + i]
    for i in range(2, -1, -1):
        for k in range(i + 1, 3):
            x[i] -= m[3 * k + i] * x[k]
        x[i] /= m[3 * i + i]


cdef void _solve_singular(double *m, double *x) noexcept nogil:
    """The solution of least norm of a symmetric 3 x 3 system, by Jacobi's rotations."""
    cdef Py_ssize_t sweep, i, j, k, p, q
    cdef double v[9]
    cdef double y[3]
    cdef double theta, t, c, s, one, two, largest = 0.0
    for i in range(9):
        v[i] = 1.0 if i % 4 == 0 else 0.0
    for sweep in range(30):
        for k in range(3):
            p = 0 if k < 2 else 1
            q = k + 1 if k < 2 else 2
            if fabs(m[3 * p + q]) < 1e-300:
                continue
            theta = 0.5 * (m[3 * q + q] - m[3 * p + p]) / m[3 * p + q]
            t = (1.0 if theta >= 0 else -1.0) / (fabs(theta) + hypot(theta, 1.0))
            c = 1.0 / hypot(t, 1.0)
            s = t * c
            for i in range(3):
                one = m[3 * i + p]
                two = m[3 * i + q]
                m[3 * i + p] = c * one - s * two
                m[3 * i + q] = s * one + c * two
            for i in range(3):
                one = m[3 * p + i]
                two = m[3 * q + i]
                m[3 * p + i] = c * one - s * two
                m[3 * q + i] = s * one + c * two
                one = v[3 * i + p]
                two = v[3 * i + q]
                v[3 * i + p] = c * one - s * two
                v[3 * i + q] = s * one + c * two
    for i in range(3):
        largest = max(largest, fabs(m[4 * i]))
        y[i] = v[i] * x[0] + v[3 + i] * x[1] + v[6 + i] * x[2]
    for i in range(3):
        y[i] = y[i] / m[4 * i] if fabs(m[4 * i]) > 1e-12 * largest else 0.0
    for i in range(3):
        x[i] = v[3 * i] * y[0] + v[3 * i + 1] * y[1] + v[3 * i + 2] * y[2]


cdef void _fit(const double *terms, const double *values, const double *weight, Py_ssize_t n,
               double *plane) noexcept nogil:
    """Weighted least squares by the scaled normal equations; the least norm where singular."""
    cdef double gram[9]
    cdef double size[3]
    cdef Py_ssize_t i, j
    _normal(terms, values, weight, n, gram, plane)
    for i in range(3):
        size[i] = sqrt(max(gram[4 * i], 1e-300))
    for i in range(3):
        plane[i] /= size[i]
        for j in range(3):
            gram[3 * i + j] /= size[i] * size[j]
    if _determinant(gram) > 1e-9:
        _solve(gram, plane)
    else:
        _solve_singular(gram, plane)
    for i in range(3):
        plane[i] /= size[i]
