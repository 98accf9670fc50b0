"""Match all images of Roman in a folder: roman_images.py FOLDER OUTPUT."""

import sys
from pathlib import Path

from levelmatch import match_levels

folder, output = map(Path, sys.argv[1:])
matched = match_levels(sorted(folder.glob("*_cal.asdf")))
matched.write(output)
print(matched.table["name", "level", "error"])
