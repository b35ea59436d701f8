"""What of changed settings a running daemon can take over, and what needs a restart. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ollmlx.errors.secrets import MASK
from ollmlx.settings.keys import KeyPath, is_secret, show_path
from ollmlx.settings.model import Settings

RELOADABLE: frozenset[KeyPath] = frozenset(
    {
        ("aliases",),
        ("models",),
        ("server", "origins"),
        ("server", "hosts"),
        ("security", "api_keys"),
        ("security", "allow_remote_code"),
        ("security", "blobs"),
        ("logging", "level"),
        ("logging", "prompts"),
        ("runners", "keep_alive"),
        ("runners", "parallel"),
        ("runners", "context_length"),
        ("runners", "request_timeout"),
        ("runners", "kv_cache_type"),
    }
)
"""Keys, or whole sections, that are read again for each request or each load."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs; `None` for a declared model or an alias that is not there."""

    path: KeyPath
    old: Any
    new: Any

    def __str__(self) -> str:
        if is_secret(self.path):
            return f"{show_path(self.path)}: changed ({MASK})"
        return f"{show_path(self.path)}: {_shown(self.old)} -> {_shown(self.new)}"


@dataclass(frozen=True, slots=True)
class Reload:
    """`settings`: the old ones with every change that takes effect now. `restart`: what waits for a restart."""

    settings: Settings
    applied: tuple[Change, ...]
    restart: tuple[Change, ...]


def reloadable(old: Settings, new: Settings) -> Reload:
    """Split the difference between two settings."""
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
