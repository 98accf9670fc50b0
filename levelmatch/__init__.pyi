# Licensed under a 3-clause BSD style license - see LICENSE.rst

from levelmatch import plots as plots
from levelmatch import report as report
from levelmatch import testing as testing
from levelmatch.anchor import anchor_levels as anchor_levels
from levelmatch.exceptions import (
    DisconnectedError as DisconnectedError,
)
from levelmatch.exceptions import (
    DisconnectedWarning as DisconnectedWarning,
)
from levelmatch.exceptions import (
    FluxScaleWarning as FluxScaleWarning,
)
from levelmatch.exceptions import (
    FrameError as FrameError,
)
from levelmatch.exceptions import (
    LevelMatchDeprecationWarning as LevelMatchDeprecationWarning,
)
from levelmatch.exceptions import (
    LevelMatchError as LevelMatchError,
)
from levelmatch.exceptions import (
    LevelMatchWarning as LevelMatchWarning,
)
from levelmatch.exceptions import (
    NoOverlapError as NoOverlapError,
)
from levelmatch.exceptions import (
    PatternWarning as PatternWarning,
)
from levelmatch.exceptions import (
    RecordError as RecordError,
)
from levelmatch.hst import write_skyfile as write_skyfile
from levelmatch.image_tables import make_sky_cells as make_sky_cells
from levelmatch.image_tables import write_catalogue as write_catalogue
from levelmatch.images.catalogue import read_catalogue as read_catalogue
from levelmatch.images.jwst import separate_lyot as separate_lyot
from levelmatch.images.sky_cells import SkyCells as SkyCells
from levelmatch.matching import (
    combine_detectors as combine_detectors,
)
from levelmatch.matching import (
    combine_nircam_short as combine_nircam_short,
)
from levelmatch.matching import (
    match_dithers as match_dithers,
)
from levelmatch.matching import (
    match_levels as match_levels,
)
from levelmatch.matching import (
    match_mosaic as match_mosaic,
)
from levelmatch.matching import (
    recombine_lyot as recombine_lyot,
)
from levelmatch.options import (
    CoaddOptions as CoaddOptions,
)
from levelmatch.options import (
    MeasureOptions as MeasureOptions,
)
from levelmatch.options import (
    ReadOptions as ReadOptions,
)
from levelmatch.options import (
    SolveOptions as SolveOptions,
)
from levelmatch.record.record import Record as Record
from levelmatch.record.record import read_record as read_record
from levelmatch.record.solving import solve_record as solve_record
from levelmatch.results.apply_undo import (
    apply_record as apply_record,
)
from levelmatch.results.apply_undo import (
    recorded_result as recorded_result,
)
from levelmatch.results.apply_undo import (
    undo_record as undo_record,
)
from levelmatch.results.mosaic import make_mosaic as make_mosaic
from levelmatch.results.result import MatchResult as MatchResult
from levelmatch.results.verification import (
    verify_record as verify_record,
)
from levelmatch.stacks import stack_tile as stack_tile

__version__: str
