"""Model overrides: `[models."NAME"]` and `[aliases]` of the settings, applied to installed models. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from ollmlx.errors import ConfigError
from ollmlx.model.names import ModelName
from ollmlx.settings.model import ModelSettings, Settings
from ollmlx.types import InstalledModel, ModelDefaults, Options

CONVERTER = "mlx-community"
"""The organisation of the hub that converts models for MLX. The catalogue's others are the authors' own."""


class ModelOverrides:
    """The overrides and aliases of the settings, by model name. `catalogue` has the built-in aliases."""

    def __init__(self, settings: Settings, catalogue: Mapping[str, str]) -> None:
        self.models = {ModelName.parse(name): model for name, model in settings.models.items()}
        self._aliases = {ModelName.parse(name): ModelName.parse(target) for name, target in catalogue.items()}
        self._conversions = {name for name, target in self._aliases.items() if target.org == CONVERTER}
        self._conversions -= {ModelName.parse(name) for name in settings.aliases}
        self._aliases |= {ModelName.parse(name): ModelName.parse(target) for name, target in settings.aliases.items()}

    def alias(self, name: ModelName) -> ModelName | None:
        """Return the model that a name is an alias of, if it is one. A name typed with its host is none.

        Raises ConfigError when aliases form a loop.
        """
        if name.via is not None:
            return None
        seen = [name]
        while (target := self._aliases.get(seen[-1])) is not None:
            if target in seen:
                loop = " -> ".join(item.short for item in [*seen, target])
                raise ConfigError(f"[aliases] loop: {loop}", code="CFG004")
            seen.append(target)
        return seen[-1] if len(seen) > 1 else None

    def aliases(self) -> Iterable[ModelName]:
        """Return the names that stand for others, those of the catalogue included."""
        return self._aliases.keys()

    def is_conversion(self, name: ModelName) -> bool:
        """Return whether the catalogue names a conversion for MLX, and a person nothing else."""
        return name.via is None and name in self._conversions

    def aliases_of(self, target: ModelName) -> list[ModelName]:
        """Return the aliases of a model."""
        return [name for name in self._aliases if self.alias(name) == target]


def apply_overrides(base: InstalledModel, name: ModelName, overrides: ModelSettings) -> InstalledModel:
    """Return the model under this name, with the system prompt, template, adapter and parameters of its overrides.

    Raises ConfigError for a parameter that is not valid.
    """
    try:
        options = Options.model_validate(overrides.parameters)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(
            f"[models.{str(name.short)!r}] parameters.{'.'.join(map(str, fault['loc']))}: {fault['msg']}", code="CFG004"
        ) from error
    stated = {
        "options": options.over(base.defaults.options),
        "system": overrides.system,
        "template": overrides.template,
        "adapter": Path(overrides.adapter).expanduser() if overrides.adapter else None,
    }
    update = {key: value for key, value in stated.items() if value is not None}
    return rename(base, name, base.defaults.model_copy(update=update))


def rename(base: InstalledModel, name: ModelName, defaults: ModelDefaults | None = None) -> InstalledModel:
    """Return the same weights under another name. The digest changes only when the defaults, and so the answers, do."""
    if defaults is None or defaults == base.defaults:
        return base.model_copy(update={"name": name})
    digest = hashlib.sha256((base.digest + defaults.model_dump_json()).encode()).hexdigest()
    details = base.details.model_copy(update={"parent_model": str(base.name)})
    return base.model_copy(update={"name": name, "defaults": defaults, "digest": digest, "details": details})
