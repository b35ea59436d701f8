"""`[plugins.hub]`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ollmlx_hub.client import Access


class HubSettings(BaseModel):
    """Which hub is asked, and as whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="Address of the hub. Empty: HF_ENDPOINT, else huggingface.co."
    )
    token: SecretStr = Field(SecretStr(""), description="Token for the hub. Empty: HF_TOKEN, else the login's.")

    def access(self, environment: Mapping[str, str]) -> Access:
        """These settings, with what the daemon's environment adds."""
        return Access.of(environment, self.endpoint, self.token.get_secret_value())
