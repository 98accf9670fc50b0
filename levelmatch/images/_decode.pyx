# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pixels of FITS files made native, compiled."""

import numpy as np

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "_decode.h" nogil:
    void lm_subtract(const uint32_t *, uint32_t *, Py_ssize_t, double)
    uint64_t lm_sum(const uint32_t *, Py_ssize_t)
    int lm_may_have_fill(const uint32_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double, int)
    void lm_decode(uint32_t *, const uint32_t *, Py_ssize_t, uint32_t, uint32_t)
    void lm_block_sums(const uint32_t *, Py_ssize_t, Py_ssize_t, uint64_t *)
    bint lm_read_at(int, void *, int64_t, int64_t)

__all__ = ["may_have_fill", "read_decoded", "subtract_level", "sum_words"]

# Number of pixels per sum, and of pixels decoded at once: they fit into the processor's cache.
cdef enum:
    BLOCK = 1024
    CHUNK = 65536


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


def read_decoded(
    int file, int64_t position, int64_t flag_position, uint32_t[::1] words, uint32_t bits,
    uint32_t flip, on_read=None,
):
    """Read 32-bit floats from a file, native, and NaN where flagged.

    Parameters
    ----------
    file : int
        Descriptor of the open file.
    position, flag_position : int
        Positions of the pixels and of their flags in the file; -1 without flags.
    words : `~numpy.ndarray` of uint32, shape (n,)
        Gets the pixels.
    bits : int
        The bits that make a pixel bad.
    flip : int
        Bits that the file has inverted: the uppermost in the flags of an unsigned type.
    on_read : callable or None
        Called with some pixels and their flags (or `None`), as they are in the file, in order.

    Returns
    -------
    sums : `~numpy.ndarray` of uint64, shape (n // 1024,)
        Sums of the decoded pixels as 64-bit words.

    Raises
    ------
    OSError
        If the file ends too early or cannot be read.
    """
    cdef Py_ssize_t n = words.shape[0], start = 0, count
    cdef bint good = True, flagged = flag_position >= 0, told = on_read is not None
    cdef const uint32_t *flag = NULL
    flags_array = np.empty(min(<Py_ssize_t>CHUNK, n) if flagged else 0, np.uint32)
    sums_array = np.empty(n // BLOCK, np.uint64)
    cdef uint32_t[::1] flags = flags_array
    cdef uint64_t[::1] sums = sums_array
    with nogil:
        while start < n:
            count = min(<Py_ssize_t>CHUNK, n - start)
            good = lm_read_at(file, &words[start], 4 * count, position + 4 * start)
            if good and flagged:
                flag = &flags[0]
                good = lm_read_at(file, &flags[0], 4 * count, flag_position + 4 * start)
            if not good:
                break
            if told:
                with gil:
                    on_read(words[start:start + count], flags_array[:count] if flagged else None)
            lm_decode(&words[start], flag, count, bits, flip)
            if count >= BLOCK:
                lm_block_sums(&words[start], count, BLOCK, &sums[start // BLOCK])
            start += count
    if not good:
        msg = "it ends before the end of its data, or cannot be read"
        raise OSError(msg)
    return sums_array


def may_have_fill(const uint32_t[:, ::1] words, Py_ssize_t step, double rounding, bint stored):
    """Return whether samples of an image have a value that could be a fill value.

    Parameters
    ----------
    words : `~numpy.ndarray` of uint32, shape (ny, nx)
        The 32-bit floats, at least 3 by 3.
    step : int
        Distance between samples.
    rounding : float
        Largest ratio of a rounding error of zero to the largest sample.
    stored : bool
        Whether the pixels are as a FITS file has them, most significant byte first.

    Returns
    -------
    found : bool
        Whether a sample equals the pixel on its right, or is a rounding error of zero.
    """
    cdef int found
    with nogil:
        found = lm_may_have_fill(
            &words[0, 0], words.shape[0], words.shape[1], step, rounding, stored
        )
    return bool(found)
