"""Declared models and aliases: `[models."NAME"]` and `[aliases]` laid over what the stores hold. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from ollmlx.errors import ConfigError
from ollmlx.model.names import ModelName
from ollmlx.settings import ModelSettings, Settings
from ollmlx.types import InstalledModel, ModelDefaults, Options


class ModelOverrides:
    """The settings' view of names: which name stands for which."""

    def __init__(self, settings: Settings, catalogue: Mapping[str, str]) -> None:
        self._models = {ModelName.parse(name): model for name, model in settings.models.items()}
        self._aliases = {ModelName.parse(name): ModelName.parse(target) for name, target in catalogue.items()}
        self._aliases |= {ModelName.parse(name): ModelName.parse(target) for name, target in settings.aliases.items()}

    def settings_for(self, name: ModelName) -> ModelSettings | None:
        """The `[models."NAME"]` table of a name, if there is one."""
        return self._models.get(name)

    def declared(self) -> Iterable[tuple[ModelName, ModelSettings]]:
        return self._models.items()

    def alias(self, name: ModelName) -> ModelName | None:
        """What an alias stands for, followed to its end. Raises ConfigError when aliases loop."""
        seen = [name]
        while (target := self._aliases.get(seen[-1])) is not None:
            if target in seen:
                loop = " -> ".join(item.short for item in [*seen, target])
                raise ConfigError(f"[aliases] loop: {loop}", code="CFG004")
            seen.append(target)
        return seen[-1] if len(seen) > 1 else None

    def alias_names(self) -> Iterable[ModelName]:
        """Every name that stands for another."""
        return self._aliases.keys()

    def aliases_of(self, target: ModelName) -> list[ModelName]:
        """The names that stand for a model."""
        return [name for name in self._aliases if self.alias(name) == target]


def overlay(base: InstalledModel, name: ModelName, declared: ModelSettings) -> InstalledModel:
    """The declared model: the base's files under its own name, with its own system prompt and parameters."""
    try:
        options = Options.model_validate(declared.parameters)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(
            f"[models.{str(name.short)!r}] parameters.{'.'.join(map(str, fault['loc']))}: {fault['msg']}", code="CFG004"
        ) from error
    defaults = base.defaults.model_copy(
        update={
            "options": options.over(base.defaults.options),
            **{
                key: value
                for key, value in (
                    ("system", declared.system),
                    ("template", declared.template),
                    ("adapter", Path(declared.adapter).expanduser() if declared.adapter else None),
                )
                if value is not None
            },
        }
    )
    return rename(base, name, defaults)


def rename(base: InstalledModel, name: ModelName, defaults: ModelDefaults | None = None) -> InstalledModel:
    """The same weights under another name; the digest changes only with what changes the answers."""
    if defaults is None or defaults == base.defaults:
        return base.model_copy(update={"name": name})
    digest = hashlib.sha256((base.digest + defaults.model_dump_json()).encode()).hexdigest()
    details = base.details.model_copy(update={"parent_model": str(base.name)})
    return base.model_copy(update={"name": name, "defaults": defaults, "digest": digest, "details": details})
