"""The backend for speech, in the daemon: which models it runs, their memory, and the command of their runners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from ollmlx import LaunchOptions, Refusal, RunnerCommand
from ollmlx.storekit import PIPER, WHISPER
from ollmlx.types import InstalledModel, MemoryEstimate

ENGINE: Final = "ollmlx_speech.engine.engine:SpeechEngine"
MISSING: Final = "ENV027"
INSTALL: Final = "pip install 'ollmlx[speech]'"
MIB: Final = 1024 * 1024
LISTENING: Final = 400 * MIB
"""The interpreter with the libraries, and the work space for the audio that is heard at once, measured on a CPU."""
SPEAKING: Final = 320 * MIB
"""The same for the longest sentence that is spoken at once."""

LIBRARIES: Final[Mapping[str, tuple[str, str]]] = {
    WHISPER: ("faster_whisper", "faster-whisper"),
    PIPER: ("piper", "piper-tts"),
    "mlx": ("mlx_audio", "mlx-audio"),
}
"""By the format of a model: the module that runs it, and the package that has it."""


def is_installed(module: str) -> bool:
    """Return whether a runner could import a library. Does not import it."""
    return find_spec(module) is not None


@dataclass(frozen=True)
class SpeechBackend:
    """Runs models that hear or speak. `installed` tells whether a module is installed."""

    installed: Callable[[str], bool] = is_installed

    name = "speech"

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """Return None for a speech model whose library is installed."""
        if not is_speech(model):
            return Refusal(reason="it runs models that hear or speak", code="MDL005")
        module, package = LIBRARIES[model.format]
        missing = [name for name in (module, "av") if not self.installed(name)]
        if not missing:
            return None
        reason = f"{package if module in missing else 'PyAV'} is not installed"
        on_metal = (
            "ollmlx[speech] has it on Apple silicon; elsewhere use whisper:base and piper:joe, which run on a CPU"
        )
        return Refusal(reason=reason, hint=on_metal if "mlx_audio" in missing else INSTALL, code=MISSING)

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Return the bytes for the weights, which are held as they are stored or smaller, and for the work."""
        work = SPEAKING if "speech" in model.capabilities else LISTENING
        return MemoryEstimate(weights=model.size, kv_cache=0, overhead=work)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand.of_engine(ENGINE)

    def importer(self, format: str) -> RunnerCommand | None:
        """Return None: models are run as they are."""
        return None


def is_speech(model: InstalledModel) -> bool:
    """Return whether a model hears or speaks, and is in one of the formats that are run here."""
    return bool({"transcription", "speech"} & {*model.capabilities}) and model.format in LIBRARIES
