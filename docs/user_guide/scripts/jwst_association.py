"""Match an association of JWST and combine its images: jwst_association.py ASN FOLDER."""

import sys
from pathlib import Path

from jwst.pipeline import Image3Pipeline

from levelmatch import match_levels

association, folder = map(Path, sys.argv[1:])
matched = match_levels(association)
matched.write(folder / "matched")
print(matched.table["name", "level", "error"])

pipeline = Image3Pipeline()
pipeline.output_dir, pipeline.save_results = str(folder), True
pipeline.skymatch.skip = True
# These need more than a few small images. Leave them on for your own data.
pipeline.tweakreg.skip = pipeline.outlier_detection.skip = True
pipeline.source_catalog.skip = True
pipeline.run(str(folder / "matched" / association.name))
