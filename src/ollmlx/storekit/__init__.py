"""What stores and sources share: files, downloads, locks, staging folders, uploads and the index of installed models.

Any plugin may import it. It imports the vocabulary and the errors, and nothing of the daemon.
"""

from __future__ import annotations

from ollmlx.storekit.blobs import Blobs
from ollmlx.storekit.download import Download, download_client, fetch_file, origin, pull_progress, redirected
from ollmlx.storekit.files import (
    FoundFile,
    check_space,
    link_or_copy,
    list_files,
    read_bounded,
    read_json,
    read_receipt,
    require_inside,
    safe_path,
    sha256_of,
    storage_error,
    storage_errors,
    with_hashes,
    write_receipt,
    write_whole,
)
from ollmlx.storekit.model_index import ModelDescription, ModelIndex, ModelReading
from ollmlx.storekit.staging import StagingArea, locked, merged_defaults, only_file

__all__ = [
    "Blobs",
    "Download",
    "FoundFile",
    "ModelDescription",
    "ModelIndex",
    "ModelReading",
    "StagingArea",
    "check_space",
    "download_client",
    "fetch_file",
    "link_or_copy",
    "list_files",
    "locked",
    "merged_defaults",
    "only_file",
    "origin",
    "pull_progress",
    "read_bounded",
    "read_json",
    "read_receipt",
    "redirected",
    "require_inside",
    "safe_path",
    "sha256_of",
    "storage_error",
    "storage_errors",
    "with_hashes",
    "write_receipt",
    "write_whole",
]
