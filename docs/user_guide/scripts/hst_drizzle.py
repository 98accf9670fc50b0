"""Match HST images and combine them by AstroDrizzle: hst_drizzle.py FOLDER OUTPUT."""

import os
import sys
from pathlib import Path

from drizzlepac.astrodrizzle import AstroDrizzle

from levelmatch import SolveOptions, match_levels, write_skyfile

folder, output = map(Path, sys.argv[1:])
matched = match_levels(sorted(folder.glob("*_fl?.fits")), solve=SolveOptions(subtract=False))
paths = matched.write(output)
write_skyfile(matched, output / "sky.txt")
print(matched.table["name", "level", "error"])

# AstroDrizzle finds the names of the list in its working folder.
os.chdir(output)
AstroDrizzle(
    [path.name for path in paths],
    output="mosaic",
    skysub=True,
    skyfile="sky.txt",
    build=True,
    # These are for the small images of an example. Leave them on for your own data.
    static=False,
    driz_separate=False,
    median=False,
    blot=False,
    driz_cr=False,
)
