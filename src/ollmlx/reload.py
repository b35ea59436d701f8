"""Taking changed settings into a running daemon, for SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from ollmlx.app import App
from ollmlx.errors import ConfigError
from ollmlx.errors.secrets import MASK
from ollmlx.settings import Settings
from ollmlx.settings.keys import KeyPath, is_secret, show_path
from ollmlx.settings.load import LoadedSettings

logger = logging.getLogger(__name__)

RELOADABLE: frozenset[KeyPath] = frozenset(
    tuple(key.split("."))
    for key in (
        *(
            "aliases",
            "models",
            "server.origins",
            "server.hosts",
            "server.keep_awake",
            "logging.level",
            "logging.prompts",
        ),
        *("security.api_keys", "security.keys", "security.share_prompt_caches", "security.allow_remote_code"),
        *("security.push", "security.blobs"),
        *("runners.keep_alive", "runners.parallel", "runners.context_length", "runners.request_timeout"),
        *("runners.kv_cache_type", "agents"),
    )
)
"""Keys, or whole sections, that the daemon reads again for each request or each load."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. `old` or `new` is None for a declared model or an alias that does not exist."""

    path: KeyPath
    old: Any
    new: Any

    def __str__(self) -> str:
        if is_secret(self.path):
            return f"{show_path(self.path)}: changed ({MASK})"
        return f"{show_path(self.path)}: {_shown(self.old)} -> {_shown(self.new)}"


@dataclass(frozen=True, slots=True)
class Reload:
    """`settings`: the old ones with the `applied` changes. `restart`: the changes that wait for a restart."""

    settings: Settings
    applied: tuple[Change, ...]
    restart: tuple[Change, ...]


def reload(daemon: App, load: Callable[[], LoadedSettings]) -> Reload | None:
    """Read the settings again and apply the changes that need no restart. Called on the daemon's event loop.

    load: reads the settings as at start, with the same file and the same flags. If the settings are unusable, their
    faults are logged, nothing changes, and the result is None.
    """
    try:
        loaded = load()
    except ConfigError as error:
        logger.error("settings are not reloaded: %s", error.message)  # noqa: TRY400 - a fault of the file, not of the code
        return None
    for notice in loaded.warnings:
        logger.warning("settings: %s", notice)
    change = reloadable(daemon.settings, loaded.settings)
    daemon.reconfigure(change.settings)
    daemon.loaded, daemon.waiting = replace(loaded, settings=change.settings), tuple(map(str, change.restart))
    logging.getLogger().setLevel(change.settings.logging.level.upper())
    for applied in change.applied:
        logger.info("settings: %s", applied)
    for waiting in change.restart:
        logger.warning("settings: %s needs a restart", waiting)
    if not change.applied and not change.restart:
        logger.info("settings: nothing changed")
    return change


def reloadable(old: Settings, new: Settings) -> Reload:
    """Split the difference between two settings into changes that apply now and changes that need a restart."""
    applied, restart = [], []
    sections: dict[str, Any] = {}
    for section in Settings.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if before == after:
            continue
        if (section,) in RELOADABLE:
            sections[section] = after
            applied += _table_changes(section, before, after)
            continue
        changes = _section_changes(section, before, after)
        now = [change for change in changes if change.path in RELOADABLE]
        if now:
            sections[section] = before.model_copy(update={change.path[1]: change.new for change in now})
        applied += now
        restart += [change for change in changes if change.path not in RELOADABLE]
    return Reload(old.model_copy(update=sections), tuple(applied), tuple(restart))


def _section_changes(section: str, before: BaseModel, after: BaseModel) -> list[Change]:
    names = [*type(before).model_fields, *sorted({*(before.model_extra or {}), *(after.model_extra or {})})]
    pairs = [(name, getattr(before, name, None), getattr(after, name, None)) for name in names]
    return [Change((section, name), one, two) for name, one, two in pairs if one != two]


def _table_changes(section: str, before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    changes: list[Change] = []
    for name in sorted({*before, *after}):
        one, two = before.get(name), after.get(name)
        if isinstance(one, BaseModel) and isinstance(two, BaseModel):
            fields = [(field, getattr(one, field), getattr(two, field)) for field in type(one).model_fields]
            changes += [Change((section, name, field.rstrip("_")), x, y) for field, x, y in fields if x != y]
        elif one != two:
            changes.append(Change((section, name), one, two))
    return changes


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return "declared"
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
