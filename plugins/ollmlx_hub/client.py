"""Access to the hub: the table `[plugins.hub]`, and requests with the hub's own client library.

Calls block: make them in a thread. huggingface_hub's global endpoint and token are never used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ollmlx import OllmlxError, __version__
from ollmlx.errors import Forbidden, NotFound, Unauthorized, UpstreamError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

DEFAULT_ENDPOINT = "https://huggingface.co"
AGENT = {"user-agent": f"ollmlx/{__version__}"}
TIMEOUT = 30.0  # seconds for one request
MOST_FOUND = 1000
"""Repositories of a search."""


# -- settings ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubAccess:
    """The hub's address and the token for it. The token is in no representation of the object."""

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {**AGENT, "Authorization": f"Bearer {self.token}"} if self.token else AGENT


class HubSettings(BaseModel):
    """The hub to use, and the token for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="Address of the hub. Empty: HF_ENDPOINT, else huggingface.co."
    )
    token: SecretStr = Field(SecretStr(""), description="Token for the hub. Empty: HF_TOKEN, else the login's.")
    organisations: tuple[str, ...] = Field(
        ("mlx-community",),
        description="Organisations that are searched for names of Ollama's library which the catalogue does not know.",
    )
    gguf_organisations: tuple[str, ...] = Field(
        ("bartowski", "unsloth", "ggml-org"),
        description="Organisations that are searched for GGUF files of such names, where MLX has no GPU and Ollama's"
        " registry has no such model.",
    )
    public: bool = Field(False, description="Repositories that a push makes can be read by everybody.")

    def access(self, environment: Mapping[str, str]) -> HubAccess:
        """Return address and token: the settings', those of the hub's own variables, or the token of a login."""
        endpoint = (self.endpoint or environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        token = self.token.get_secret_value() or environment.get("HF_TOKEN")
        token = token or environment.get("HUGGING_FACE_HUB_TOKEN", "")
        if not token and endpoint == DEFAULT_ENDPOINT:  # the token of a login is for this hub only
            token = _login_token(environment)
        return HubAccess(endpoint, token.strip() or None)


def _login_token(environment: Mapping[str, str]) -> str:
    home = environment.get("HF_HOME") or os.path.join(  # noqa: PTH118 - joined as huggingface_hub joins it
        environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    path = Path(environment.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


# -- requests ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: size in bytes, its sha256 if it is stored outside git, its git object id."""

    path: str
    size: int
    sha256: str | None
    oid: str

    @property
    def etag(self) -> str:
        """The identity of the content that the hub uses."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class RepositoryListing:
    """One revision of a repository."""

    repo: str
    commit: str
    license: str
    files: tuple[RemoteFile, ...]


class HubClient:
    def __init__(self, access: HubAccess) -> None:
        self.access = access

    def ping(self, timeout: float = TIMEOUT) -> None:
        """Make one request, with the token if there is one. `timeout` in seconds.

        Raises Unauthorized if the hub does not accept the token, UpstreamError if it cannot be reached.
        """
        from huggingface_hub import get_session

        path = "/api/whoami-v2" if self.access.token else "/api/models?limit=1"
        with self._explained("api", "main"):
            answer = get_session().get(self.access.endpoint + path, headers=self.access.headers, timeout=timeout)
            if answer.status_code == 401:
                raise Unauthorized(
                    f"the hub at {self.access.endpoint} does not accept the token",
                    code="NET006",
                    hint="set HF_TOKEN to a valid token, or to nothing",
                )
            answer.raise_for_status()

    def listing(self, repo: str, revision: str) -> RepositoryListing:
        """List every file of a revision. Raises NotFound, Unauthorized, Forbidden, UpstreamError."""
        with self._explained(repo, revision):
            info = self._api().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        files = tuple(
            RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id or "")
            for file in info.siblings or ()
        )
        license = getattr(info.card_data, "license", None)
        return RepositoryListing(repo, info.sha or "", license if isinstance(license, str) else "", files)

    def search(self, organisation: str, family: str) -> list[tuple[str, float]]:
        """Return an organisation's repositories that may be of a family, each with the time of its last change."""
        letters = re.match(r"[A-Za-z]*", family)
        assert letters is not None
        with self._explained(organisation, "main"):
            found = self._api().list_models(
                author=organisation, search=letters[0], sort="last_modified", limit=MOST_FOUND, expand=["lastModified"]
            )
            return [(each.id, each.last_modified.timestamp() if each.last_modified else 0.0) for each in found]

    def file_url(self, listing: RepositoryListing, file: RemoteFile) -> str:
        """Return the address of a file. Raises an error if the hub refuses it or serves another file."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(listing.repo, file.path, revision=listing.commit, endpoint=self.access.endpoint)
        with self._explained(listing.repo, listing.commit):
            metadata = get_hf_file_metadata(
                url, token=self.access.token or False, timeout=TIMEOUT, headers=AGENT, endpoint=self.access.endpoint
            )
        if metadata.etag is not None and metadata.etag.strip('"') != file.etag:
            raise UpstreamError(
                f"{listing.repo}: the hub lists {file.path} with another content than it serves", hint="pull again"
            )
        return url

    def upload(self, repo: str, folder: Path, files: list[str], message: str, *, public: bool) -> None:
        """Create the repository if needed, and commit files to it. An existing one stays as public as it is."""
        with self._explained(repo, "main"):
            api = self._api()
            api.create_repo(repo, exist_ok=True, private=not public)
            api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=message)

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, constants

        constants.HF_HUB_DISABLE_TELEMETRY = True  # telemetry makes requests of its own, whatever the endpoint is
        return HfApi(endpoint=self.access.endpoint, token=self.access.token or False, headers=AGENT)

    @contextmanager
    def _explained(self, repo: str, revision: str) -> Iterator[None]:
        """Turn each error of the library into an OllmlxError with a hint."""
        import httpx
        from huggingface_hub import errors

        try:
            yield
        except errors.HfHubHTTPError as error:
            raise self._refusal(error, repo, revision) from error
        except errors.OfflineModeIsEnabled as error:
            raise UpstreamError(
                "the hub's offline mode is on", code="NET005", hint="unset HF_HUB_OFFLINE and start ollmlx again"
            ) from error
        except (errors.FileMetadataError, httpx.HTTPError, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise UpstreamError(
                f"cannot reach the hub at {self.access.endpoint}: {reason}",
                code="NET005",
                hint="check the network; set HF_ENDPOINT if you use a mirror",
            ) from error

    def _refusal(self, error: HfHubHTTPError, repo: str, revision: str) -> OllmlxError:
        from huggingface_hub import errors

        endpoint, status = self.access.endpoint, error.response.status_code
        if isinstance(error, errors.GatedRepoError):
            hint = f"accept them at {endpoint}/{repo}, then set HF_TOKEN to a token from {endpoint}/settings/tokens"
            return Forbidden(f"{repo} is gated: its authors ask you to accept their terms", code="NET006", hint=hint)
        if isinstance(error, errors.RevisionNotFoundError):
            hint = f"see {endpoint}/{repo}/tree/main for its branches"
            return NotFound(f"{repo} has no revision {revision!r}", code="MDL002", hint=hint)
        missing = isinstance(error, errors.RepositoryNotFoundError)
        if status == 401 and (self.access.token or not missing):
            hint = "set HF_TOKEN to a valid token"
            return Unauthorized(f"the hub does not accept the token for {repo}", code="NET006", hint=hint)
        if missing:
            hint = f"check the spelling at {endpoint}/models"
            hint += "" if self.access.token else "; for a private repository set HF_TOKEN"
            return NotFound(f"{repo} does not exist on {endpoint}", code="MDL002", hint=hint)
        if status == 403:
            hint = "use a token with the permission for it"
            return Forbidden(f"the hub refuses access to {repo}", code="NET006", hint=hint)
        if status == 429:
            hint = "wait a minute, or set HF_TOKEN for a higher limit"
            return UpstreamError("the hub asks to slow down (429)", code="NET005", hint=hint)
        return UpstreamError(f"the hub answered {status} for {repo}", code="NET005", hint="try again later")
