"""The hub, asked with its own client: what a repository holds, where a file is, and errors a person can act on.

Calls block: make them in a thread. Endpoint and token are given, never taken from huggingface_hub's own globals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollmlx import __version__
from ollmlx.errors import Forbidden, NotFound, Unauthorized, UpstreamError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT = 30.0  # seconds for one question


@dataclass(frozen=True)
class Access:
    """Where the hub is and who asks. The token never appears in a representation."""

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, environment: Mapping[str, str], endpoint: str = "", token: str = "") -> Access:
        """Settings first, then the variables that the hub's own tools read, then the token of a login with them."""
        endpoint = (endpoint or environment.get("HF_ENDPOINT", "") or DEFAULT_ENDPOINT).rstrip("/")
        token = token or environment.get("HF_TOKEN", "") or environment.get("HUGGING_FACE_HUB_TOKEN", "")
        if not token and endpoint == DEFAULT_ENDPOINT:  # a login belongs to the hub it was made at
            token = _login(environment)
        return cls(endpoint, token.strip() or None)

    @property
    def headers(self) -> dict[str, str]:
        agent = {"User-Agent": f"ollmlx/{__version__}"}
        return {**agent, "Authorization": f"Bearer {self.token}"} if self.token else agent


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: bytes, its sha256 when it is stored outside git, its git object id."""

    path: str
    size: int
    sha256: str | None
    oid: str

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Listing:
    """One revision of a repository."""

    repo: str
    commit: str
    license: str
    files: tuple[RemoteFile, ...]


class HubClient:
    """Questions to one hub."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def greet(self, timeout: float = TIMEOUT) -> None:
        """Whether the hub answers and knows the token; without one, whether it answers. `timeout` in seconds.

        Raises Unauthorized, UpstreamError.
        """
        from huggingface_hub import get_session

        who = "/api/whoami-v2" if self.access.token else "/api/models?limit=1"
        with self._explained("api", "main"):
            answer = get_session().get(self.access.endpoint + who, headers=self.access.headers, timeout=timeout)
            if answer.status_code == 401:
                raise Unauthorized(
                    f"the hub at {self.access.endpoint} does not accept the token",
                    code="NET006",
                    hint="set HF_TOKEN to a valid token, or to nothing",
                )
            answer.raise_for_status()

    def listing(self, repo: str, revision: str) -> Listing:
        """Every file of a revision. Raises NotFound, Unauthorized, Forbidden, UpstreamError."""
        with self._explained(repo, revision):
            info = self._api().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        files = tuple(
            RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id or "")
            for file in info.siblings or ()
        )
        card = getattr(info, "card_data", None)
        license = getattr(card, "license", None)
        return Listing(repo, info.sha or "", license if isinstance(license, str) else "", files)

    def check(self, listing: Listing, file: RemoteFile) -> str:
        """The address of a file, after asking the hub whether we may have it and whether it is what was listed."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(listing.repo, file.path, revision=listing.commit, endpoint=self.access.endpoint)
        with self._explained(listing.repo, listing.commit):
            metadata = get_hf_file_metadata(
                url, token=self.access.token or False, timeout=TIMEOUT, headers=_agent(), endpoint=self.access.endpoint
            )
        if metadata.etag is not None and metadata.etag.strip('"') != file.etag:
            raise UpstreamError(
                f"{listing.repo}: the hub lists {file.path} with another content than it serves", hint="pull again"
            )
        return url

    def upload(self, repo: str, folder: Path, files: list[str], message: str) -> str:
        """Create the repository if needed and commit files to it; the commit's address."""
        with self._explained(repo, "main"):
            api = self._api()
            api.create_repo(repo, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=message)
        return str(commit.commit_url)

    def _api(self) -> HfApi:
        _be_quiet()
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.access.endpoint, token=self.access.token or False, headers=_agent())

    @contextmanager
    def _explained(self, repo: str, revision: str) -> Iterator[None]:
        import httpx
        from huggingface_hub import errors

        page = f"{self.access.endpoint}/{repo}"
        try:
            yield
        except errors.GatedRepoError as error:
            raise Forbidden(
                f"{repo} is gated: its authors ask you to accept their terms",
                code="NET006",
                hint=f"accept them at {page}, then set HF_TOKEN to a token from {self.access.endpoint}/settings/tokens",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise NotFound(
                f"{repo} has no revision {revision!r}", code="MDL002", hint=f"see {page}/tree/main for its branches"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise self._missing(repo, error) from error
        except errors.HfHubHTTPError as error:
            raise self._refused(repo, error) from error
        except errors.OfflineModeIsEnabled as error:
            raise UpstreamError(
                "the hub's offline mode is on", code="NET005", hint="unset HF_HUB_OFFLINE and start ollmlx again"
            ) from error
        except (errors.FileMetadataError, httpx.HTTPError, OSError, ValueError) as error:
            raise UpstreamError(
                f"cannot reach the hub at {self.access.endpoint}: {_first_line(error)}",
                code="NET005",
                hint="check the network; set HF_ENDPOINT if you use a mirror",
            ) from error

    def _missing(self, repo: str, error: Any) -> NotFound | Unauthorized:
        if self.access.token and error.response.status_code == 401:
            return Unauthorized(
                f"the hub does not accept the token for {repo}", code="NET006", hint="set HF_TOKEN to a valid token"
            )
        hint = f"check the spelling at {self.access.endpoint}/models"
        if not self.access.token:
            hint += "; for a private repository set HF_TOKEN"
        return NotFound(f"{repo} does not exist on {self.access.endpoint}", code="MDL002", hint=hint)

    def _refused(self, repo: str, error: Any) -> UpstreamError | Unauthorized | Forbidden:
        status = error.response.status_code
        if status == 401:
            return Unauthorized(
                f"the hub does not accept the token for {repo}", code="NET006", hint="set HF_TOKEN to a valid token"
            )
        if status == 403:
            return Forbidden(
                f"the hub refuses access to {repo}", code="NET006", hint="use a token with the permission for it"
            )
        if status == 429:
            return UpstreamError(
                "the hub asks to slow down (429)",
                code="NET005",
                hint="wait a minute, or set HF_TOKEN for a higher limit",
            )
        return UpstreamError(f"the hub answered {status} for {repo}", code="NET005", hint="try again later")


def _agent() -> dict[str, str]:
    return {"user-agent": f"ollmlx/{__version__}"}


def _be_quiet() -> None:
    """No telemetry: its look at the environment even asks the network, whatever endpoint is set."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def _login(environment: Mapping[str, str]) -> str:
    home = environment.get("HF_HOME") or os.path.join(  # noqa: PTH118 - joined as huggingface_hub joins it
        environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    path = Path(environment.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
