"""`ollmlx create`: create a model from a Modelfile, and upload the local files that it names."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from pydantic import ValidationError

from ollmlx.cli.client import Client, Json
from ollmlx.cli.connection import connect, ensure_daemon
from ollmlx.cli.terminal import note
from ollmlx.cli.transfer import ShowProgress, progress, succeeded
from ollmlx.errors import InvalidRequest, NotFound
from ollmlx.model.modelfile import UNUSED_COMMANDS, Modelfile, parse_modelfile
from ollmlx.storekit import speech_weights
from ollmlx.types import Options

UNUSED_PARAMETERS = (
    *("low_vram", "main_gpu", "mirostat", "mirostat_eta", "mirostat_tau", "num_gpu", "num_gqa", "num_thread", "numa"),
    *("f16_kv", "logits_all", "penalize_newline", "tfs_z", "use_mlock", "use_mmap", "vocab_only"),
)
"""Parameters of Ollama that have no meaning here; a message says so."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "*.tiktoken")
STEP_FILES = ("[0-9]*_*/config.json", "[0-9]*_*/model.safetensors")
"""The files of an embedding model's pooling and dense layers."""


def add_create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = """Create a model from a Modelfile.

If FROM names an installed model, the new model takes no disk space: it uses the same weights with its own system
prompt, parameters, template, messages and adapter. FROM may also name a GGUF file, or a folder with safetensors
files or one GGUF file. Without a Modelfile the folder itself is the model, as with FROM . in one."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "-f", "--file", metavar="FILE", help="the Modelfile, in this folder by default; - reads standard input"
    )
    parser.add_argument(
        "--from-ollama",
        metavar="NAME",
        help="make a copy for llama.cpp of a model whose GGUF file is in Ollama's own dialect; no Modelfile is read",
    )
    parser.add_argument("-q", "--quantize", metavar="TYPE", help="quantise the weights: q4_K_M, q8_0, int4, ...")
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="create it for this backend: llamacpp keeps a GGUF file as it is, mlx imports it",
    )
    parser.add_argument("--json", action="store_true", help="print progress as JSON lines")


def run_create(args: argparse.Namespace) -> int:
    body, files, adapters = _request_of(args)
    body |= {"model": args.model, **({"quantize": args.quantize} if args.quantize else {})}
    if args.backend:
        body["parameters"] = {**body.get("parameters", {}), "backend": args.backend}
    client = connect(args)
    ensure_daemon(client, args)
    with progress(as_json=args.json) as show:
        for key, paths in (("files", files), ("adapters", adapters)):
            if paths:
                show({"status": "gathering model components"})
                body[key] = {name: upload(client, path, show) for name, path in paths.items()}
        for step in client.stream("/api/create", body, ended=succeeded):
            show(step)
    return 0


def _request_of(args: argparse.Namespace) -> tuple[Json, dict[str, Path], dict[str, Path]]:
    if args.from_ollama:
        return {"stream": True, "from": args.from_ollama, "convert": True}, {}, {}
    text, folder = read_modelfile(args.file)
    return create_request(parse_modelfile(text), folder)


def read_modelfile(name: str | None) -> tuple[str, Path]:
    """Return the text of a Modelfile and the folder to which its paths are relative. None: this folder's, if any."""
    if name == "-":
        return sys.stdin.read(), Path.cwd()
    if name is None:
        name = "Modelfile"
        if not Path(name).exists():
            return "FROM .", Path.cwd()
    path = Path(name).expanduser()
    try:
        return path.read_text("utf-8"), path.resolve().parent
    except FileNotFoundError as error:
        raise NotFound(f"there is no Modelfile at {path}", hint="ollmlx create MODEL -f FILE") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read {path}: {error}") from error


def create_request(modelfile: Modelfile, folder: Path) -> tuple[Json, dict[str, Path], dict[str, Path]]:
    """Return the request for a Modelfile, and the local files of the model and of its adapter."""
    body: Json = {"stream": True}
    files: dict[str, Path] = {}
    adapters: dict[str, Path] = {}
    for source in modelfile.values("from"):
        found = local_files(source, folder)
        if found is None:
            body["from"] = source
        else:
            files |= found
    for adapter in modelfile.values("adapter"):
        found = local_files(adapter, folder)
        if found is None:
            raise NotFound(f"there is no adapter at {adapter}")
        adapters |= found
    for key in ("template", "system"):
        if (value := modelfile.last(key)) is not None:
            body[key] = value
    if licenses := modelfile.values("license"):
        body["license"] = list(licenses)
    if parameters := _parameters(modelfile):
        body["parameters"] = parameters
    if messages := modelfile.keyed("message"):
        body["messages"] = [{"role": role, "content": content} for role, content in messages]
    for name, reason in UNUSED_COMMANDS.items():
        if modelfile.values(name):
            note(reason)
    return body, files, adapters


def _parameters(modelfile: Modelfile) -> Json:
    """Return the parameters with their types: every `stop`, and the last value of every other name."""
    stated: Json = {}
    for name, value in modelfile.keyed("parameter"):
        if name == "stop":
            stated.setdefault("stop", []).append(value)
        elif name in UNUSED_PARAMETERS:
            note(f"PARAMETER {name} is not used")
        elif name in Options.model_fields:
            stated[name] = value
        else:
            raise InvalidRequest(f"unknown parameter '{name}'")
    try:
        return Options.model_validate(stated).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InvalidRequest(f"PARAMETER {fault['loc'][0]}: {fault['msg']}") from error


def local_files(source: str, folder: Path) -> dict[str, Path] | None:
    """Return the files at a path of a Modelfile, by name; None if it is the name of a model.

    Raises NotFound for a path where nothing is, InvalidRequest for a folder without a model.
    """
    path = folder / Path(source).expanduser()
    if path.is_file():
        beside = path.with_name(f"{path.name}.json")
        return {path.name: path} | ({beside.name: beside} if path.suffix == ".onnx" and beside.is_file() else {})
    if path.is_dir():
        return _model_files(path)
    if source.startswith((".", "/", "~")) or source.lower().endswith((".gguf", ".safetensors")):
        raise NotFound(f"there is no file {path}")
    return None


def _model_files(folder: Path) -> dict[str, Path]:
    found = [path for pattern in (*MODEL_FILES, *STEP_FILES) for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in found):
        ggufs = sorted(path for path in folder.glob("*.gguf") if path.is_file())
        found = ggufs or _speech_files(folder)
    if not found:
        raise InvalidRequest(
            f"{folder} holds no model: no safetensors, no GGUF file, no Whisper for CTranslate2 and no voice of Piper",
            hint="run it where the model or a Modelfile is, or: ollmlx create MODEL -f FILE",
        )
    for path in found:
        _check_inside(path, folder)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _speech_files(folder: Path) -> list[Path]:
    """Return the files of a Whisper model or a voice; none if the folder holds neither."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    weights = speech_weights(files)
    kept = [path for name, path in files.items() if name in weights or name.endswith((".json", ".txt"))]
    return kept if weights else []


def _check_inside(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of the folder, except to the blobs of the hub's cache."""
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    if not target.is_relative_to(home) and not (home.parent.name == "snapshots" and target.is_relative_to(blobs)):
        raise InvalidRequest(f"{path} leads out of its folder, to {target}")


def upload(client: Client, path: Path, show: ShowProgress) -> str:
    """Upload a file unless the daemon has it, and return its digest."""
    with path.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if client.exists(f"/api/blobs/{digest}"):
        return digest
    size, sent = path.stat().st_size, 0

    def count(length: int) -> None:
        nonlocal sent
        sent += length
        show({"status": f"copying file {digest}", "digest": digest, "total": size, "completed": sent})

    count(0)
    with path.open("rb") as file:
        client.upload(f"/api/blobs/{digest}", file, size, count)
    return digest
