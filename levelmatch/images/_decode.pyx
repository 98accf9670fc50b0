# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pixels of FITS files made native, compiled."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "_decode.h" nogil:
    void lm_subtract(const uint32_t *, uint32_t *, Py_ssize_t, double)
    uint64_t lm_sum(const uint32_t *, Py_ssize_t)
    void lm_decode(uint32_t *, const uint32_t *, Py_ssize_t, uint32_t, uint32_t)

__all__ = ["decode_pixels", "subtract_level", "sum_words"]


def subtract_level(const uint32_t[::1] words, uint32_t[::1] out, double level):
    """Subtract a level from 32-bit floats of a file, in double precision.

    Parameters
    ----------
    words : `~numpy.ndarray` of uint32, shape (n,)
        The pixels as a FITS file has them, most significant byte first.
    out : `~numpy.ndarray` of uint32, shape (n,)
        Gets the difference, in the same order; it may be ``words``.
    level : float
        The level.
    """
    cdef Py_ssize_t n = words.shape[0]
    if out.shape[0] != n:
        msg = f"out: {out.shape[0]} for {n} pixels"
        raise ValueError(msg)
    if n:
        with nogil:
            lm_subtract(&words[0], &out[0], n, level)


def sum_words(const uint32_t[::1] words):
    """Return the sum of the 32-bit words of a file, which its checksum is made of.

    Parameters
    ----------
    words : `~numpy.ndarray` of uint32, shape (n,)
        The words as a FITS file has them, most significant byte first.

    Returns
    -------
    total : int
        The sum, without carries.
    """
    cdef uint64_t total = 0
    cdef Py_ssize_t n = words.shape[0]
    if n:
        with nogil:
            total = lm_sum(&words[0], n)
    return total


def decode_pixels(uint32_t[::1] words, const uint32_t[::1] flags, uint32_t bits, uint32_t flip):
    """Make 32-bit floats of a file native, and NaN where flagged, in place.

    Parameters
    ----------
    words : `~numpy.ndarray` of uint32, shape (n,)
        The pixels as a FITS file has them, most significant byte first; then native.
    flags : `~numpy.ndarray` of uint32, shape (n,), or None
        Their flags as a file has them.
    bits : int
        The bits that make a pixel bad.
    flip : int
        Bits that the file has inverted: the uppermost in the flags of an unsigned type.
    """
    cdef Py_ssize_t n = words.shape[0]
    if n == 0:
        return
    if flags is not None and flags.shape[0] != n:
        msg = f"flags: {flags.shape[0]} for {n} pixels"
        raise ValueError(msg)
    cdef const uint32_t *flag = NULL
    if flags is not None:
        flag = &flags[0]
    with nogil:
        lm_decode(&words[0], flag, n, bits, flip)
