"""The index of installed models: each is read once for as long as its files do not change."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ollmlx.errors import OllmlxError, Unsupported
from ollmlx.helper import LimitExceeded
from ollmlx.model.installed import Capability, InstalledModel, ModelDefaults, ModelDetails
from ollmlx.storekit.files import damaged

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Manifest = TypeVar("Manifest")


@dataclass(frozen=True)
class ModelDescription:
    """A model as its files describe it, without loading it. The fields are those of InstalledModel."""

    format: str
    details: ModelDetails
    capabilities: tuple[Capability, ...]
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    info: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    projector_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelReading(Generic[Manifest]):
    """The result of reading one model: the model, or the error that says why it cannot be used.

    `manifest` is None if there is none, or none that can be read. `state` changes when the model's files change.
    """

    state: Hashable = None
    manifest: Manifest | None = None
    model: InstalledModel | None = None
    error: OllmlxError | None = None


class ModelIndex(ABC, Generic[Key, Manifest]):
    """Reads installed models and remembers them. `Key` locates a model: it is a folder or a manifest file.

    The methods read files: call them in a thread. They may be called by several threads at once, and write nothing.
    """

    def __init__(self) -> None:
        self._readings: dict[Key, ModelReading[Manifest]] = {}
        self._logged: dict[Key, str] = {}
        self._lock = threading.Lock()
        self._being_read: dict[Key, threading.Lock] = {}

    @abstractmethod
    def read_manifest(self, key: Key) -> Manifest | None:
        """Read a model's manifest. Raises OllmlxError or OSError if it is damaged."""

    @abstractmethod
    def read_state(self, key: Key, manifest: Manifest | None) -> Hashable:
        """Return a value that changes when any of the model's files changes. Raises OllmlxError or OSError."""

    @abstractmethod
    def read_model(self, key: Key, manifest: Manifest | None) -> InstalledModel:
        """Read the model itself. Raises OllmlxError or OSError if it is damaged."""

    @abstractmethod
    def explain(self, key: Key, error: OllmlxError | OSError) -> OllmlxError:
        """Return the error to show for a model that could not be read; it is logged unless it is Unsupported."""

    def reading(self, key: Key) -> ModelReading[Manifest]:
        """Return the earlier reading of a model if its files are unchanged, else read the model now.

        Any failure belongs to this model alone: a stranger's file must not hide the others. Errors are not
        remembered, because permissions change without a trace in the files' times; each is logged once. A file that
        reached a limit is: reading it again would take as long.
        """
        with self._lock:
            being_read = self._being_read.setdefault(key, threading.Lock())
        with being_read:  # another thread that wants the same model waits for this one's reading
            known = self._readings.get(key)
            return known if known is not None and self._is_current(key, known) else self._read(key)

    def _read(self, key: Key) -> ModelReading[Manifest]:
        manifest: Manifest | None = None
        state: Hashable = None
        try:
            manifest = self.read_manifest(key)
            state = self.read_state(key, manifest)
            fresh = ModelReading(state, manifest, self.read_model(key, manifest))
        except Exception as error:  # noqa: BLE001 - a file may hold anything, and code may not expect it
            failed = ModelReading(state, manifest, error=self._failure(key, error))
            with self._lock:
                if isinstance(error, LimitExceeded):
                    self._readings[key] = failed
            return failed
        with self._lock:
            self._readings[key] = fresh
            self._logged.pop(key, None)
        return fresh

    def model(self, key: Key) -> InstalledModel:
        """Return the model at a key. Raises the error of its reading if it cannot be used."""
        reading = self.reading(key)
        if reading.error is not None:
            raise reading.error
        assert reading.model is not None
        return reading.model

    def _failure(self, key: Key, error: Exception) -> OllmlxError:
        surprise = None
        if not isinstance(error, OllmlxError | OSError):
            surprise = error
            error = damaged(f"its files cannot be read: {type(error).__name__}: {str(error)[:200]}")
        explained = self.explain(key, error)
        with self._lock:
            known, self._logged[key] = self._logged.get(key), explained.message
        if known != explained.message and not isinstance(explained, Unsupported):  # a cloud model is no failure
            logger.warning("not listed: %s", explained.message, exc_info=surprise)
        return explained

    def _is_current(self, key: Key, known: ModelReading[Manifest]) -> bool:
        try:
            return self.read_state(key, known.manifest) == known.state
        except Exception:  # noqa: BLE001 - reading the model again finds the same error, and reports it
            return False
