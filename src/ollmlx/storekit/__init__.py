"""Parts that stores and sources share: files, downloads, locks, staging folders, uploads, and the model index.

Any plugin may import it. It imports the vocabulary, formats and the errors, and nothing of the daemon.
"""

from __future__ import annotations

from ollmlx.storekit.blobs import Blobs as Blobs
from ollmlx.storekit.download import Download as Download
from ollmlx.storekit.download import download_client as download_client
from ollmlx.storekit.download import fetch_file as fetch_file
from ollmlx.storekit.download import follow_redirects as follow_redirects
from ollmlx.storekit.download import origin as origin
from ollmlx.storekit.download import pull_progress as pull_progress
from ollmlx.storekit.download import redirected as redirected
from ollmlx.storekit.embedding_files import STEP_FILES as STEP_FILES
from ollmlx.storekit.embedding_files import EmbeddingRecipe as EmbeddingRecipe
from ollmlx.storekit.embedding_files import read_recipe as read_recipe
from ollmlx.storekit.files import MAX_CONFIG as MAX_CONFIG
from ollmlx.storekit.files import FoundFile as FoundFile
from ollmlx.storekit.files import check_space as check_space
from ollmlx.storekit.files import damaged as damaged
from ollmlx.storekit.files import folder_state as folder_state
from ollmlx.storekit.files import foreign_file as foreign_file
from ollmlx.storekit.files import free_name as free_name
from ollmlx.storekit.files import link_or_copy as link_or_copy
from ollmlx.storekit.files import list_files as list_files
from ollmlx.storekit.files import read_bounded as read_bounded
from ollmlx.storekit.files import read_json as read_json
from ollmlx.storekit.files import read_receipt as read_receipt
from ollmlx.storekit.files import replace_whole as replace_whole
from ollmlx.storekit.files import require_inside as require_inside
from ollmlx.storekit.files import require_json as require_json
from ollmlx.storekit.files import safe_path as safe_path
from ollmlx.storekit.files import sha256_of as sha256_of
from ollmlx.storekit.files import storage_error as storage_error
from ollmlx.storekit.files import storage_errors as storage_errors
from ollmlx.storekit.files import sync_file as sync_file
from ollmlx.storekit.files import with_hashes as with_hashes
from ollmlx.storekit.files import write_receipt as write_receipt
from ollmlx.storekit.files import write_whole as write_whole
from ollmlx.storekit.folder_description import describe_folder as describe_folder
from ollmlx.storekit.gguf_description import LONGEST_ARRAY as LONGEST_ARRAY
from ollmlx.storekit.gguf_description import describe_gguf as describe_gguf
from ollmlx.storekit.gguf_description import gguf_parts as gguf_parts
from ollmlx.storekit.model_index import ModelDescription as ModelDescription
from ollmlx.storekit.model_index import ModelIndex as ModelIndex
from ollmlx.storekit.outline import fetch_outline as fetch_outline
from ollmlx.storekit.public_addresses import is_named as is_named
from ollmlx.storekit.speech_files import PIPER as PIPER
from ollmlx.storekit.speech_files import WHISPER as WHISPER
from ollmlx.storekit.speech_files import speech_weights as speech_weights
from ollmlx.storekit.staging import StagingArea as StagingArea
from ollmlx.storekit.staging import discard as discard
from ollmlx.storekit.staging import locked as locked
from ollmlx.storekit.staging import merged_defaults as merged_defaults
from ollmlx.storekit.staging import only_file as only_file
from ollmlx.storekit.threads import to_transfer_thread as to_transfer_thread
