# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Entry points of asdf, which loads this module whenever it opens a file."""

from asdf.extension import Converter, ManifestExtension
from asdf.resource import DirectoryResourceMapping

__all__ = ["RecordConverter", "get_extensions", "get_resource_mappings"]

BASE = "asdf://levelmatch.org"
VERSION = "1.0.0"


class RecordConverter(Converter):
    """A record to and from its tree."""

    tags = (f"{BASE}/tags/record-*",)
    types = ("levelmatch.record.record.Record",)

    def to_yaml_tree(self, obj, tag, ctx):
        """Return the tree of a record."""
        return obj.to_tree()

    def from_yaml_tree(self, node, tag, ctx):
        """Return the record of a tree."""
        from levelmatch.record.record import Record

        return Record.from_tree(node)


def get_resource_mappings():
    """Return where the schemas and the manifest are."""
    from importlib.resources import files

    root = files("levelmatch.asdf") / "resources"
    return [
        DirectoryResourceMapping(root / "schemas", f"{BASE}/schemas/"),
        DirectoryResourceMapping(root / "manifests", f"{BASE}/manifests/"),
    ]


def get_extensions():
    """Return the extension, with its converters."""
    uri = f"{BASE}/manifests/levelmatch-{VERSION}"
    return [ManifestExtension.from_uri(uri, converters=[RecordConverter()])]
