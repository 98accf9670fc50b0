"""Run PJPipe with the level matching of levelmatch: pjpipe_config.py CONFIG LOCAL."""

import sys

import pjpipe

import levelmatch.pjpipe

levelmatch.pjpipe.install()

pipeline = pjpipe.PJPipeline(config_file=sys.argv[1], local_file=sys.argv[2])
pipeline.do_pipeline()
