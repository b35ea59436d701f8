"""`ollmlx create`: make a model from a Modelfile."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollmlx.cli.client import Client, Json
from ollmlx.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from ollmlx.model.modelfile import Modelfile

DESCRIPTION = """Make a model from a Modelfile.

Over another model it costs no disk space: system prompt, parameters, template, messages and adapter are laid over its
weights. FROM may also name a GGUF file, or a folder with safetensors files."""

UNUSED = {
    "renderer": "the model's own chat template is used",
    "parser": "the model's own chat template tells",
    "requires": "ollmlx has versions of its own",
    "draft": 'a draft model is set in ollmlx.toml: [models."NAME"] draft',
}
OTHER_PARAMETERS = (
    *("low_vram", "main_gpu", "mirostat", "mirostat_eta", "mirostat_tau", "num_gpu", "num_gqa", "num_thread", "numa"),
    *("f16_kv", "logits_all", "penalize_newline", "tfs_z", "use_mlock", "use_mmap", "vocab_only"),
)
"""Parameters of Ollama's that mean nothing here: told, and left out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "-f", "--file", metavar="FILE", default="Modelfile", help="the Modelfile; - reads it from a pipe"
    )
    parser.add_argument("-q", "--quantize", metavar="TYPE", help="quantise the weights, for example int4 or int8")
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="make it for this backend: llamacpp keeps a GGUF file as it is, mlx imports it",
    )
    parser.add_argument("--json", action="store_true", help="print progress as JSON lines")


def run(args: argparse.Namespace) -> int:
    from ollmlx.cli.background import ensure_daemon
    from ollmlx.cli.connection import connect
    from ollmlx.cli.progress import display, succeeded
    from ollmlx.cli.uploads import upload_all
    from ollmlx.model.modelfile import parse_modelfile

    text, folder = read_modelfile(args.file)
    modelfile = parse_modelfile(text)
    body, files, adapters = creation(modelfile, folder)
    body |= {"model": args.model, **({"quantize": args.quantize} if args.quantize else {})}
    if args.backend:
        body["parameters"] = {**body.get("parameters", {}), "backend": args.backend}
    client = connect(args)
    ensure_daemon(client, args)
    with display(as_json=args.json) as show:
        for key, found in (("files", files), ("adapters", adapters)):
            if found:
                body[key] = upload_all(client, found, show)
        _create(client, body, show, succeeded)
    return 0


def _create(client: Client, body: Json, show: Any, succeeded: Any) -> None:
    for step in client.stream("/api/create", body, ended=succeeded):
        show(step)


def read_modelfile(name: str) -> tuple[str, Path]:
    """A Modelfile's text, and the folder its paths are relative to."""
    if name == "-":
        return sys.stdin.read(), Path.cwd()
    path = Path(name).expanduser()
    try:
        return path.read_text("utf-8"), path.resolve().parent
    except FileNotFoundError as error:
        raise NotFound(f"there is no Modelfile at {path}", hint="ollmlx create MODEL -f FILE") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read {path}: {error}") from error


def creation(modelfile: Modelfile, folder: Path) -> tuple[Json, dict[str, Path], dict[str, Path]]:
    """The request that a Modelfile stands for, and the local files it needs: of the model, of its adapter."""
    from ollmlx.cli.uploads import local_files

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
    if parameters := typed_parameters(modelfile):
        body["parameters"] = parameters
    if messages := modelfile.keyed("message"):
        body["messages"] = [{"role": role, "content": content} for role, content in messages]
    _tell_unused(modelfile)
    return body, files, adapters


def typed_parameters(modelfile: Modelfile) -> Json:
    """The parameters with their types; `stop` gathers, for any other name the last one counts."""
    from pydantic import ValidationError

    from ollmlx.cli.terminal import note
    from ollmlx.types import Options

    stated: Json = {}
    for name, value in modelfile.keyed("parameter"):
        if name == "stop":
            stated.setdefault("stop", []).append(value)
        elif name in OTHER_PARAMETERS:
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


def _tell_unused(modelfile: Modelfile) -> None:
    from ollmlx.cli.terminal import note

    for name, reason in UNUSED.items():
        if modelfile.values(name):
            note(f"{name.upper()} is not used: {reason}")
