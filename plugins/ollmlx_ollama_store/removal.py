"""Taking models out: a manifest, and then the layers that no manifest names any more."""

from __future__ import annotations

import logging

from ollmlx import ModelName, OllmlxError
from ollmlx.errors import StorageError
from ollmlx_ollama_store.index import Shelf
from ollmlx_ollama_store.layout import Layout
from ollmlx_ollama_store.manifest import Manifest

logger = logging.getLogger(__name__)


class Removal:
    """Call in a thread, under the store's lock."""

    def __init__(self, layout: Layout, shelf: Shelf) -> None:
        self.layout = layout
        self.shelf = shelf

    def delete(self, name: ModelName) -> None:
        """Remove a model. Raises FileNotFoundError, OSError."""
        entry = self.layout.find(name)
        if entry is None:
            raise FileNotFoundError(name.short)
        manifest: Manifest | None = None
        try:
            manifest, _ = self.shelf.manifest(entry.path)
        except StorageError as error:
            logger.warning("%s is removed without its layers: %s", name.short, error.message)
        entry.path.unlink()
        self.layout.remove_empty(entry.path.parent)
        if manifest is not None:
            self.sweep(manifest)

    def sweep(self, manifest: Manifest) -> None:
        """Remove the blobs of a manifest that is gone, but those that another one names.

        A manifest that cannot be read may name any of them: then all stay.
        """
        needed: set[str] = set()
        for path in self.layout.files():
            try:
                needed |= {layer.digest for layer in self.shelf.manifest(path)[0].blobs()}
            except OllmlxError as error:
                logger.warning("no layer is removed: %s", error.message)
                return
        for digest in {layer.digest for layer in manifest.blobs()} - needed:
            self.layout.blob(digest).unlink(missing_ok=True)
