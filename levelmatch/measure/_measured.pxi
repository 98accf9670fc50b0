# Licensed under a 3-clause BSD style license - see LICENSE.rst
# A measured cell, `CELL` of `_cells.pyx`.

cdef packed struct MeasuredCell:
    double location
    double clipped
    double scatter
    double brightness
    double x
    double y
    double smooth
    double weight
    double square
    double star_diff
    double star_flux
    long long kept
    long long good
