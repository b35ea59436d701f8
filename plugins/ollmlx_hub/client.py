"""The hub's own client library, with address and token from our settings and with errors that say what to do.

Calls block: make them in a thread. huggingface_hub's global endpoint and token are never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ollmlx import OllmlxError, __version__
from ollmlx.errors import Forbidden, NotFound, Unauthorized, UpstreamError
from ollmlx_hub.repository import RemoteFile, RepositoryListing
from ollmlx_hub.settings import HubAccess

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT = 30.0  # seconds for one request


class HubClient:
    """Requests to one hub."""

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
        card = getattr(info, "card_data", None)
        license = getattr(card, "license", None)
        return RepositoryListing(repo, info.sha or "", license if isinstance(license, str) else "", files)

    def file_url(self, listing: RepositoryListing, file: RemoteFile) -> str:
        """Return the address of a file. The hub is asked first if the file may be read and is the one it listed."""
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
        """Create the repository if needed, commit files to it, and return the commit's address."""
        with self._explained(repo, "main"):
            api = self._api()
            api.create_repo(repo, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=message)
        return str(commit.commit_url)

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, constants

        constants.HF_HUB_DISABLE_TELEMETRY = True  # telemetry makes requests of its own, whatever the endpoint is
        return HfApi(endpoint=self.access.endpoint, token=self.access.token or False, headers=_agent())

    @contextmanager
    def _explained(self, repo: str, revision: str) -> Iterator[None]:
        """Raise an OllmlxError that says what to do in place of each error of the library."""
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
            raise UpstreamError(
                f"cannot reach the hub at {self.access.endpoint}: {_first_line(error)}",
                code="NET005",
                hint="check the network; set HF_ENDPOINT if you use a mirror",
            ) from error

    def _refusal(self, error: HfHubHTTPError, repo: str, revision: str) -> OllmlxError:
        """Return the error for a response that is no success."""
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


def _agent() -> dict[str, str]:
    return {"user-agent": f"ollmlx/{__version__}"}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
