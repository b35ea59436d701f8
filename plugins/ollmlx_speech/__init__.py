"""Backend plugin: speech. Whisper through faster-whisper, voices through Piper, both through mlx-audio.

Only `engine/`, which runs in the child, imports these libraries, and only there audio is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable

from ollmlx import Backend, Check, PluginContext, hookimpl

ollmlx_api = 1


@hookimpl
def register_backends(register: Callable[[Backend], None], context: PluginContext) -> None:
    from ollmlx_speech.backend import SpeechBackend

    register(SpeechBackend())


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None]) -> None:
    """Register the check that the libraries for installed models are there and load."""
    from ollmlx_speech.check import SpeechCheck

    register(SpeechCheck(), files("ollmlx_speech") / "diagnostics")
