# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pixels of FITS files made native, compiled."""

import os

import numpy as np

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "_decode.h" nogil:
    uint64_t lm_subtract_and_sum(const uint32_t *, uint32_t *, Py_ssize_t, double)
    uint64_t lm_sum(const uint32_t *, Py_ssize_t)
    int lm_may_have_fill(const uint32_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double, int)
    void lm_decode(uint32_t *, const uint32_t *, Py_ssize_t, uint32_t, uint32_t)
    bint lm_transfer(int, void *, int64_t, int64_t, int)
    int LM_READ
    void lm_reserve(int, int64_t)
    int lm_copy_minus(
        int, int64_t, int, int64_t, uint32_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double,
        Py_ssize_t, double, uint64_t *, int *
    )

__all__ = [
    "copy_minus",
    "may_have_fill",
    "read_decoded",
    "reserve",
    "subtract_level",
    "sum_words",
]

# Number of pixels decoded at once: they fit into the processor's cache.
cdef enum:
    CHUNK = 262144


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
            lm_subtract_and_sum(&words[0], &out[0], n, level)


def copy_minus(
    int source, int64_t start, int target, int64_t position, uint32_t[::1] buffer,
    Py_ssize_t ny, Py_ssize_t nx, double level, Py_ssize_t step, double rounding,
):
    """Copy an image of 32-bit floats from a file to another file, minus a level.

    Parameters
    ----------
    source, target : int
        Descriptors of the open files.
    start, position : int
        Positions of the pixels in the two files.
    buffer : `~numpy.ndarray` of uint32, shape (n,)
        Holds some rows at a time, at least one.
    ny, nx : int
        Shape of the image.
    level : float
        The level.
    step, rounding : int, float
        See `may_have_fill`; a step of 0 takes no samples.

    Returns
    -------
    total : int or None
        The sum of the words of the copy, see `sum_words`; `None` if a sample may be a fill
        value. The copy is then incomplete.

    Raises
    ------
    OSError
        If the image cannot be read or written.
    """
    cdef Py_ssize_t rows = buffer.shape[0] // max(nx, 1)
    cdef uint64_t total = 0
    cdef int state, code, fill = 0
    if rows < 1 or ny < 1 or nx < 1:
        msg = f"buffer: {buffer.shape[0]} pixels for the rows of {ny} x {nx}"
        raise ValueError(msg)
    with nogil:
        state = lm_copy_minus(
            source, start, target, position, &buffer[0], rows, ny, nx, level, step, rounding,
            &total, &fill
        )
        code = errno
    if state == 1:
        msg = "it ends before the end of its data, or cannot be read"
        raise OSError(msg)
    if state == 2:
        raise OSError(code, os.strerror(code))
    return None if fill else total


def reserve(int file, int64_t size):
    """Reserve space on the disk for the bytes of a new file, if the file system can.

    Writing then takes less time.

    Parameters
    ----------
    file : int
        Descriptor of the open file. Its size stays the same.
    size : int
        Number of bytes.
    """
    with nogil:
        lm_reserve(file, size)


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
    int file, int flag_file, int64_t position, int64_t flag_position, uint32_t[::1] words,
    uint32_t bits, uint32_t flip, on_read=None,
):
    """Read 32-bit floats from a file, native, and NaN where flagged.

    Parameters
    ----------
    file, flag_file : int
        Descriptors of the open files of the pixels and of their flags. The same file is opened
        twice, as the system reads ahead where an open file is read in order.
    position, flag_position : int
        Positions of the pixels and of their flags in the files; -1 without flags.
    words : `~numpy.ndarray` of uint32, shape (n,)
        Gets the pixels.
    bits : int
        The bits that make a pixel bad.
    flip : int
        Bits that the file has inverted: the uppermost in the flags of an unsigned type.
    on_read : callable or None
        Called with some pixels and their flags (or `None`), as they are in the file, in order.

    Raises
    ------
    OSError
        If the file ends too early or cannot be read.
    """
    cdef Py_ssize_t n = words.shape[0], start = 0, count
    cdef bint good = True, flagged = flag_position >= 0, told = on_read is not None
    cdef const uint32_t *flag = NULL
    flags_array = np.empty(min(<Py_ssize_t>CHUNK, n) if flagged else 0, np.uint32)
    cdef uint32_t[::1] flags = flags_array
    with nogil:
        while start < n:
            count = min(<Py_ssize_t>CHUNK, n - start)
            good = lm_transfer(file, &words[start], 4 * count, position + 4 * start, LM_READ)
            if good and flagged:
                flag = &flags[0]
                good = lm_transfer(
                    flag_file, &flags[0], 4 * count, flag_position + 4 * start, LM_READ)
            if not good:
                break
            if told:
                with gil:
                    on_read(words[start:start + count], flags_array[:count] if flagged else None)
            lm_decode(&words[start], flag, count, bits, flip)
            start += count
    if not good:
        msg = "it ends before the end of its data, or cannot be read"
        raise OSError(msg)


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
        Whether a sample equals the two pixels on its right, or it and the second of these are
        rounding errors of zero.
    """
    cdef int found
    with nogil:
        found = lm_may_have_fill(
            &words[0, 0], words.shape[0], words.shape[1], step, rounding, stored
        )
    return bool(found)
