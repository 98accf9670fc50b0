# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""ASDF extension for records: converter, schema and manifest.

asdf loads this module whenever it opens a file, so the module is light to import.
"""

from typing import Any

from asdf.extension import Converter, ManifestExtension
from asdf.resource import DirectoryResourceMapping

from levelmatch.record.asdf_writer import BASE, VERSION

__all__ = ["RecordConverter", "get_extensions", "get_resource_mappings"]


class RecordConverter(Converter):
    """Converter between a record and its tree."""

    tags = (f"{BASE}/tags/record-*",)
    types = ("levelmatch.record.record.Record",)

    def to_yaml_tree(self, obj: Any, tag: str, ctx: Any) -> dict[str, Any]:
        """Return the tree of a record."""
        return obj.to_tree()

    def from_yaml_tree(self, node: dict[str, Any], tag: str, ctx: Any) -> Any:
        """Return the record of a tree."""
        from levelmatch.record.record import Record

        return Record.from_tree(node)


def get_resource_mappings() -> list[DirectoryResourceMapping]:
    """Return the folders of the schemas and the manifest."""
    from importlib.resources import files

    root = files("levelmatch.record") / "resources"
    return [
        DirectoryResourceMapping(root / "schemas", f"{BASE}/schemas/"),
        DirectoryResourceMapping(root / "manifests", f"{BASE}/manifests/"),
    ]


def get_extensions() -> list[ManifestExtension]:
    """Return the ASDF extension with the converter."""
    uri = f"{BASE}/manifests/levelmatch-{VERSION}"
    return [ManifestExtension.from_uri(uri, converters=[RecordConverter()])]
