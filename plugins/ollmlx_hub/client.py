"""Requests to the hub with its own client library, and the choice of the files that MLX needs of a repository.

Calls block: make them in a thread. huggingface_hub's global endpoint and token are never used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollmlx import OllmlxError, __version__
from ollmlx.errors import Forbidden, NotFound, Unauthorized, Unsupported, UpstreamError
from ollmlx_hub.layout import TOKENIZERS
from ollmlx_hub.settings import HubAccess

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT = 30.0  # seconds for one request
MAX_FILES = 1000
MAX_SMALL = 512 << 20  # bytes of all files but the weights

_WEIGHTS = re.compile(r"model[A-Za-z0-9_.\-]*\.safetensors")
_SMALL = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(json|txt|jinja|model|tiktoken)|LICEN[CS]E(\.[A-Za-z]+)?|1_Pooling/config\.json"
)
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_UNUSED = ("training_args", "onnx", "openvino", "tf_model", "flax_model", "trainer_state", "optimizer")


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
        """Return the address of a file. Raises an error if the hub refuses it or serves another file."""
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
            raise UpstreamError(
                f"cannot reach the hub at {self.access.endpoint}: {_first_line(error)}",
                code="NET005",
                hint="check the network; set HF_ENDPOINT if you use a mirror",
            ) from error

    def _refusal(self, error: HfHubHTTPError, repo: str, revision: str) -> OllmlxError:
        """Return the error for an unsuccessful response."""
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


# -- selection ---------------------------------------------------------------------------------------------------------


def select_files(listing: RepositoryListing) -> list[RemoteFile]:
    """Return the files to fetch, small ones first. Python code and pickles are never among them.

    Raises Unsupported if MLX cannot use the repository.
    """
    chosen = [file for file in listing.files if _PATH.fullmatch(file.path) and ".." not in file.path]
    weights = [file for file in chosen if _WEIGHTS.fullmatch(file.path)]
    small = [file for file in chosen if _SMALL.fullmatch(file.path) and not file.path.startswith(_UNUSED)]
    names = {file.path for file in small}
    if not weights:
        raise _unusable(listing)
    if "config.json" not in names:
        raise Unsupported(f"{listing.repo} has no config.json: MLX cannot load it", code="MDL005")
    if not names & {*TOKENIZERS, "tokenizer_config.json"}:
        raise Unsupported(f"{listing.repo} has no tokenizer: MLX cannot use it", code="MDL005")
    if len(small) + len(weights) > MAX_FILES or sum(file.size for file in small) > MAX_SMALL:
        raise UpstreamError(f"{listing.repo} is implausible: it has too many or too large files beside its weights")
    return sorted(small, key=lambda file: file.path) + sorted(weights, key=lambda file: file.path)


def _unusable(listing: RepositoryListing) -> Unsupported:
    paths = [file.path for file in listing.files]
    if any(path.endswith(".gguf") for path in paths):
        reason = "it holds GGUF files only"
        converted = f"mlx-community/{listing.repo.rpartition('/')[2].removesuffix('-GGUF')}-4bit"
        hint = f"look for a conversion: {converted}; hf.co/{listing.repo} pulls the GGUF file, for llama.cpp"
    elif _ends(paths, ".safetensors"):
        reason = "its safetensors files are not those of a language model (model*.safetensors)"
        hint = "adapters are used with ADAPTER in a Modelfile"
    elif _ends(paths, ".bin", ".pt", ".pth", ".npz"):
        reason = "its weights are pickles or arrays, which are never loaded"
        hint = "look for a repository with safetensors, for example at mlx-community"
    else:
        reason, hint = "it holds no weights", "check the name"
    return Unsupported(f"{listing.repo} has no weights that MLX can use: {reason}", code="MDL005", hint=hint)


def _ends(paths: Sequence[str], *suffixes: str) -> bool:
    return any(path.endswith(suffixes) for path in paths)
