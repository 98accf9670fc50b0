# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Check that every link within a folder of HTML leads somewhere, its anchor too.

python docs/check_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        for key in ("href", "src"):
            if values.get(key) and (tag, values.get("rel")) != ("link", "preconnect"):
                self.links.append(values[key])


def dead_links(folder):
    """Return the page and the link of each that leads nowhere; the web is not asked.

    Parameters
    ----------
    folder : path
        Of the pages.
    """
    folder = Path(folder).resolve()
    # What a theme keeps beside its pictures are templates.
    paths = [p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts]
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in paths}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                dead.append((path.relative_to(folder), link))
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                dead.append((path.relative_to(folder), link))
    return len(pages), dead


def main(folder):
    """Print the dead links of a folder, and say whether there are any."""
    n_pages, dead = dead_links(folder)
    for page, link in dead:
        print(f"{page}: {link}")
    print(f"{n_pages} pages, {len(dead)} dead links")
    return 1 if dead or not n_pages else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
