# Licensed under a 3-clause BSD style license - see LICENSE.rst
# The factor on an error from few values; included by `_gains.pyx` and `_summary.pyx`.

cdef enum:
    N_FREEDOM = 14

cdef:
    # Degrees of freedom, and the factor on the error that makes 4 sigma as rare as for many.
    double[N_FREEDOM] FREEDOM = [2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 100]
    double[N_FREEDOM] INFLATION = [
        31.4, 8.15, 4.36, 3.07, 2.46, 2.12, 1.9, 1.64, 1.5, 1.37, 1.26, 1.16, 1.09, 1.04]


cdef double _inflation(double number) noexcept nogil:
    """Return the factor on an error from a number of independent values."""
    cdef double at = log(max(number - 1, 1.0)), low, high
    cdef Py_ssize_t i
    if at <= log(FREEDOM[0]):
        return INFLATION[0]
    for i in range(1, N_FREEDOM):
        low, high = log(FREEDOM[i - 1]), log(FREEDOM[i])
        if at < high:
            return exp(log(INFLATION[i - 1])
                       + (at - low) / (high - low) * log(INFLATION[i] / INFLATION[i - 1]))
    return INFLATION[N_FREEDOM - 1]
