# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The HTML page of a report, with its sections, style and script in one file."""

import base64
import hashlib
from importlib.resources import files as resources
from string import Template

from levelmatch.atomic import atomic_path, refuse_existing
from levelmatch.diagnostics import Diagnostics
from levelmatch.images.sky_cells import CellsSource
from levelmatch.option_values import as_path
from levelmatch.report.graph import graph_section
from levelmatch.report.pictures import (
    compare_section,
    drawn_or_note,
    has_matplotlib,
    pair_pictures,
    plot_section,
)
from levelmatch.report.tables import image_table, items, names_of, option_tables, pair_table, safe
from levelmatch.results.recorded_frames import frames_with_pixels
from levelmatch.summary import (
    MAX_FINDINGS,
    findings,
    notes,
    summary_lines,
    trust_lines,
    verdict,
)

__all__ = ["check_replaceable", "is_page", "make_page", "write_report"]

# Element that marks a file as a report of levelmatch.
GENERATOR = '<meta name="generator" content="levelmatch '
# Element with the time of a report's run, which identifies the run.
RUN = '<meta name="levelmatch-run" content="'
PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
$generator$version">
$run$created">
<title>$title</title>
<style>$style</style>
</head>
<body>
<a class="skip" href="#main">Skip to the summary</a>
<main id="main">
<h1>$title</h1>
$made
$body
</main>
<div id="tip" role="tooltip" hidden></div>
<p id="said" class="unseen" role="status"></p>
<script>$script</script>
</body>
</html>
""")

NO_MATPLOTLIB = (
    "Pictures need matplotlib, which is not installed here. Install it by "
    '`pip install "levelmatch[report]"`.'
)
LEVEL = (
    "A level is the constant subtracted from an image, at its centre, so that the image agrees "
    "with those that it overlaps."
)
NO_PIXELS = "This page was made from a record without its images, so it has no pictures of pixels."


def write_report(
    result, path, *, title="Level matching", files=None, before_after=True, overwrite=False
):
    """Write an HTML page with a summary, pictures, the overlaps, and tables of images and pairs.

    The page is one file, which loads no other files. Its script sorts the tables, moves the cut
    between before and after, and shows the pairs. All text is readable without the script.
    Without matplotlib, a note takes the place of the pictures.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    path : str or `~pathlib.Path`
        Path of the page. It is written atomically.
    title : str
        Title of the page.
    files : path, list of path or None
        For a record, its uncorrected images or their folder. Without them, the page has no
        pictures that need pixels.
    before_after : bool
        Whether to draw the pictures that need pixels: mosaics before and after, and the
        differences of the pairs, or of the 20 worst of more than 60 pairs.
    overwrite : bool
        Whether to replace a report on another run. A report on the same run is always replaced.
        Other files are never replaced.

    Returns
    -------
    path : `~pathlib.Path`
        Path of the page.

    Raises
    ------
    FileExistsError
        If the path exists and may not be replaced; the message names it.
    FrameError
        If images of a record are missing in ``files`` or differ from the recorded images; the
        message names them.

    Warns
    -----
    LevelMatchWarning
        If a picture or a table fails. A note with the reason takes its place.
    """
    path, facts = as_path("path", path), Diagnostics.of(result)
    check_replaceable(path, facts.result, overwrite=overwrite)
    page = make_page(facts, title=title, files=files, before_after=before_after)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def check_replaceable(path, result=None, *, overwrite):
    """Check that a path is free or holds a report on the same run.

    Raises
    ------
    FileExistsError
        If the path is not a report, or if it is a report on another run and ``overwrite`` is not
        set.
    """
    if path.exists() and not is_page(path):
        msg = f"{path} exists and is not a page of levelmatch; name another"
        raise FileExistsError(msg)
    own = result is not None and is_page(path, result.created)
    refuse_existing(path, overwrite=overwrite or own)


def is_page(path, created=None):
    """Return whether a file was written by `write_report`, optionally on the run of a time."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        # The element lies in the first bytes of a page.
        head = stream.read(4096)
    mark = GENERATOR if created is None else f'{RUN}{created}">'
    return head.startswith(b"<!DOCTYPE html>") and mark.encode() in head


def make_page(result, *, title="Level matching", files=None, before_after=True):
    """Return the page as text; see `write_report`."""
    from levelmatch import __version__

    facts = Diagnostics.of(result)
    has_pixels = files is not None or all(
        frame.source is not None and not isinstance(frame.source, CellsSource)
        for frame in facts.frames
    )
    pixels = before_after and has_pixels and has_matplotlib()
    if pixels:
        # Wrong files raise an error here. Later failures leave a note in the page.
        frames_with_pixels(facts.result, files)
    facts.labels = dict(zip(facts.names, names_of(facts)[0], strict=True))
    sections = [
        _drawn("", lambda: _headline(facts), "headline", "Headline"),
        _section("Notes", items(notes(facts)) if notes(facts) else "", "notes"),
        _drawn("Before and after", lambda: compare_section(facts, files) if pixels else ""),
        _drawn("Overlaps on the sky", lambda: _overlaps(facts), "overlaps"),
        _drawn("The worst pairs", lambda: pair_pictures(facts, files) if pixels else ""),
        _drawn("Images", lambda: image_table(facts)),
        _drawn("Pairs", lambda: pair_table(facts)),
        _drawn(
            "Levels, pairs and loops", lambda: _plots(before_after, has_pixels, facts), "pictures"
        ),
        _section("Summary", _summary(facts), "summary"),
        _section("Options and versions", option_tables(facts), "options"),
    ]
    folder = resources("levelmatch.report")
    style, script = ((folder / f).read_text(encoding="utf-8") for f in ("report.css", "report.js"))
    return PAGE.substitute(
        generator=GENERATOR,
        run=RUN,
        created=safe(str(facts.result.created)),
        policy=_policy(style, script),
        title=safe(title),
        version=safe(__version__),
        made=_made(facts.result, __version__),
        style=style,
        script=script,
        body="\n".join(section for section in sections if section),
    )


def _headline(facts):
    """Return the verdict, and links to the most important findings."""
    first = findings(facts)[:MAX_FINDINGS]
    links = "; ".join(
        safe(f.words)
        if f.target is None
        else f'<a href="#{f.target[0][0]}{f.target[1]}">{safe(f.words)}</a>'
        for f in first
    )
    look = f"\n<p>Look first at: {links}.</p>" if first else ""
    return f'<p class="verdict">{safe(verdict(facts))}</p>{look}'


def _made(result, version):
    """Return the command line of the run, if it had one, and a line on the run."""
    created = str(result.created).partition(".")[0].replace("T", " ")
    run = result.options["function"]
    words = f"Matched by {run} on {created} UTC; page made by levelmatch {version}."
    command = result.options.get("command", "")
    line = f'<p class="made"><code>{safe(command)}</code></p>\n' if command else ""
    return f'{line}<p class="made">{safe(words)}</p>'


def _summary(facts):
    return f"<p>{LEVEL}</p>\n{items(summary_lines(facts) + trust_lines(facts))}"


def _drawn(heading, draw, kind="", label=""):
    """Return a section with the content that a function draws, or with a note if it fails."""
    return _section(heading, drawn_or_note(heading or label, draw), kind, label)


def _section(heading, content, kind="", label=""):
    """Return a section of the page; empty without content."""
    if not content:
        return ""
    kind = f' class="{kind}"' if kind else ""
    label = f' aria-label="{label}"' if label else ""
    heading = f"<h2>{heading}</h2>\n" if heading else ""
    return f"<section{kind}{label}>\n{heading}{content}\n</section>"


def _overlaps(facts):
    """Return the section with the map of the overlaps."""
    how = (
        "Each link joins two images that overlap; its colour is the residual of their difference "
        "over its standard error."
    )
    return (
        f'<p>{how} <span class="scripted" hidden>Point at a link for its numbers, or click it to '
        "show the pair; from the keyboard, the arrow keys go from link to link, the largest "
        f"first.</span></p>\n{graph_section(facts)}\n"
        '<div id="shown" tabindex="-1" aria-label="The pair chosen" hidden></div>'
    )


def _plots(before_after, has_pixels, facts):
    if not has_matplotlib():
        return f"<p>{safe(NO_MATPLOTLIB)}</p>"
    missing = f"<p>{safe(NO_PIXELS)}</p>\n" if before_after and not has_pixels else ""
    drawn = before_after and has_pixels
    return f'{missing}<div class="plots">\n{plot_section(facts, residuals=not drawn)}\n</div>'


def _policy(style, script):
    """Return the security policy of the page: only its own script, style and pictures."""

    def digest(text):
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(style)}'; "
        f"script-src 'sha256-{digest(script)}'; base-uri 'none'; form-action 'none'"
    )
