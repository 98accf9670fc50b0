# Licensed under a 3-clause BSD style license - see LICENSE.rst

from levelmatch import plots as plots, report as report, testing as testing
from levelmatch.anchor import anchor_levels as anchor_levels
from levelmatch.exceptions import (
    DisconnectedError as DisconnectedError,
    DisconnectedWarning as DisconnectedWarning,
    FluxScaleWarning as FluxScaleWarning,
    FrameError as FrameError,
    LevelMatchDeprecationWarning as LevelMatchDeprecationWarning,
    LevelMatchError as LevelMatchError,
    LevelMatchWarning as LevelMatchWarning,
    NoOverlapError as NoOverlapError,
    PatternWarning as PatternWarning,
    RecordError as RecordError,
    WingsWarning as WingsWarning,
)
from levelmatch.hst import write_skyfile as write_skyfile
from levelmatch.image_tables import (
    make_sky_cells as make_sky_cells,
    write_catalogue as write_catalogue,
)
from levelmatch.images.catalogue import read_catalogue as read_catalogue
from levelmatch.images.jwst import separate_lyot as separate_lyot
from levelmatch.images.sky_cells import SkyCells as SkyCells
from levelmatch.matching import (
    combine_detectors as combine_detectors,
    combine_nircam_short as combine_nircam_short,
    match_dithers as match_dithers,
    match_levels as match_levels,
    match_mosaic as match_mosaic,
    recombine_lyot as recombine_lyot,
)
from levelmatch.options import (
    CoaddOptions as CoaddOptions,
    MeasureOptions as MeasureOptions,
    ReadOptions as ReadOptions,
    SolveOptions as SolveOptions,
)
from levelmatch.record.record import Record as Record
from levelmatch.record.record_files import read_record as read_record
from levelmatch.record.solving import solve_record as solve_record
from levelmatch.results.apply_undo import (
    apply_record as apply_record,
    recorded_result as recorded_result,
    undo_record as undo_record,
)
from levelmatch.results.mosaic import make_mosaic as make_mosaic
from levelmatch.results.result import MatchResult as MatchResult
from levelmatch.results.verification import (
    verify_record as verify_record,
)
from levelmatch.stacks import stack_tile as stack_tile

__version__: str
