"""The doctor's check of speech: the libraries for installed models are there, load, and know the codecs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx_speech.backend import INSTALL, LIBRARIES, MISSING, SpeechBackend, is_installed, is_speech

IMPORT_SECONDS: Final = 60
"""The libraries load much: seconds on a slow disk."""
CODECS: Final = (
    *(("aac", "r"), ("flac", "r"), ("mp3", "r"), ("opus", "r"), ("vorbis", "r")),
    *(("aac", "w"), ("flac", "w"), ("libmp3lame", "w"), ("libopus", "w")),
)
PROGRAM: Final = (
    "import sys, av, ollmlx_speech.engine.engine; [__import__(name) for name in sys.argv[1:]];"
    f"[av.codec.Codec(name, mode) for name, mode in {CODECS!r}]"
)
"""Loads the libraries that are named, and finds the codecs. The last line of its output says what is wrong."""


@dataclass(frozen=True)
class SpeechCheck:
    """Finds nothing as long as no speech model is installed. `installed` tells whether a module is installed."""

    installed: Callable[[str], bool] = is_installed

    name = "speech"
    group = "machine"
    codes = (MISSING,)

    async def run(self, context: Any) -> Sequence[Finding]:
        """List the speech models; where their libraries are installed, load them in a child process."""
        backend, refused, runnable = SpeechBackend(self.installed), set(), set()
        for model in filter(is_speech, await context.models()):
            if (refusal := backend.accepts(model)) is not None:
                refused.add(f"{model.name.short}: {refusal.reason}")
            else:
                runnable.add(LIBRARIES[model.format][0])
        if refused:
            return [self._finding("speech models are installed, and what runs them is not", *sorted(refused))]
        if not runnable:
            return []
        seconds = min(IMPORT_SECONDS, context.left())
        done = await context.child([sys.executable, "-P", "-c", PROGRAM, *sorted(runnable)], seconds)
        if done.status is None and seconds < IMPORT_SECONDS:
            late = "skipped: there was no time to try whether the libraries for speech can be loaded"
            return [Finding.of(MISSING, late, severity=Severity.SKIPPED)]
        if done.status == 0:
            return []
        reason = done.err.strip().splitlines()[-1:] or [f"exit status {done.status}"]
        return [self._finding("the libraries for speech are installed and cannot be used", *reason)]

    def _finding(self, title: str, *evidence: str) -> Finding:
        return Finding.of(MISSING, title, evidence=evidence, commands=[INSTALL], severity=Severity.WARNING)
