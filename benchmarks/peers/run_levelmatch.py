"""levelmatch's own ``match_levels``, with its defaults: reads, measures and solves."""

from common import main

import levelmatch

# The package imports its modules when their names are used, but imports are not measured.
for name in levelmatch.__all__:
    getattr(levelmatch, name)


def find(paths, fit, scratch):
    """Return the total correction of each image."""
    options = {"fit_type_dithers": fit, "fit_type_mosaic_tiles": fit}
    if "_nrc" in paths[0].name:
        options["combine_nircam_short"] = True
    table = levelmatch.match_levels(paths, **options).table
    rows = {str(row["name"]): row for row in table}
    columns = ["level"] if fit == "level" else ["level", "slope_u", "slope_v"]
    found = [[rows[path.name][c].value for c in columns] for path in paths]
    return [row[0] for row in found] if fit == "level" else found


if __name__ == "__main__":
    main(find)
