"""`python -m ollmlx_llamacpp.converter --source PATH --into FOLDER --options JSON`: writes `model.gguf` into a folder.

With the option `quantize` it quantises the GGUF file PATH. With `dialect` it writes PATH, a file in Ollama's dialect,
anew, and its projector as `mmproj.gguf`. With `base`, a GGUF file, it turns the LoRA adapter in the folder PATH into
one for that model. Exits with 0, or with a sentence on standard error and a code that tells a bad model (65) from other
failures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ollmlx.errors import OllmlxError
from ollmlx.protocol import ExitCode
from ollmlx_llamacpp.converter.report import ConversionReport


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ollmlx_llamacpp.converter")
    parser.add_argument("--source", required=True, type=Path)
    parser.add_argument("--into", required=True, type=Path)
    parser.add_argument("--options", required=True, type=json.loads)
    given = parser.parse_args(arguments)
    try:
        if name := given.options.get("quantize"):
            from ollmlx_llamacpp.converter.quantize import quantize_file

            quantize_file(given.source, given.into, name, ConversionReport())
        elif given.options.get("dialect"):
            from ollmlx_llamacpp.converter.copy import convert

            convert(given.source, given.into, ConversionReport())
        else:
            from ollmlx_llamacpp.converter.adapter import convert_adapter

            convert_adapter(given.source, Path(given.options["base"]), given.into)
    except OllmlxError as error:
        message = f"{error.message}; {error.hint}" if error.hint else error.message
        return _fail(1 if error.code == "STO003" else ExitCode.BAD_MODEL, message)  # a full disk is no bad model
    except ImportError:
        return _fail(1, "llama.cpp, which quantises GGUF files, is not installed; pip install 'ollmlx[llamacpp]'")
    except MemoryError:
        return _fail(ExitCode.OUT_OF_MEMORY, "out of memory")
    except OSError as error:
        return _fail(1, f"cannot write the model: {error.strerror or error}")
    return 0


def _fail(code: int, message: str) -> int:
    sys.stderr.write(message.replace("\n", " ") + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
