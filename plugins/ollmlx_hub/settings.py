"""The table `[plugins.hub]`, and the address and token of the hub that follow from it and from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ollmlx import __version__

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class HubAccess:
    """The hub's address and the token for it. The token is in no representation of the object."""

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str], endpoint: str = "", token: str = "") -> HubAccess:
        """Take settings first, then the variables of the hub's own tools, then the token of a login with them."""
        endpoint = (endpoint or environment.get("HF_ENDPOINT", "") or DEFAULT_ENDPOINT).rstrip("/")
        token = token or environment.get("HF_TOKEN", "") or environment.get("HUGGING_FACE_HUB_TOKEN", "")
        if not token and endpoint == DEFAULT_ENDPOINT:  # the token of a login is for this hub only
            token = _login_token(environment)
        return cls(endpoint, token.strip() or None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request to the hub."""
        agent = {"User-Agent": f"ollmlx/{__version__}"}
        return {**agent, "Authorization": f"Bearer {self.token}"} if self.token else agent


class HubSettings(BaseModel):
    """The hub to use, and the token for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="Address of the hub. Empty: HF_ENDPOINT, else huggingface.co."
    )
    token: SecretStr = Field(SecretStr(""), description="Token for the hub. Empty: HF_TOKEN, else the login's.")

    def access(self, environment: Mapping[str, str]) -> HubAccess:
        """Return address and token by these settings and the environment."""
        return HubAccess.of(environment, self.endpoint, self.token.get_secret_value())


def _login_token(environment: Mapping[str, str]) -> str:
    home = environment.get("HF_HOME") or os.path.join(  # noqa: PTH118 - joined as huggingface_hub joins it
        environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    path = Path(environment.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
