"""Samples become an audio file, piece by piece."""

from __future__ import annotations

import io
from typing import Any, Final, cast

import av
import numpy as np
from numpy.typing import NDArray

from ollmlx.types import AudioFormat

KINDS: Final[dict[AudioFormat, tuple[str, str, int | None]]] = {
    "mp3": ("mp3", "libmp3lame", None),
    "opus": ("ogg", "libopus", 48_000),
    "aac": ("adts", "aac", None),
    "flac": ("flac", "flac", None),
    "wav": ("wav", "pcm_s16le", None),
    "pcm": ("s16le", "pcm_s16le", 24_000),
}
"""Container, codec, and the rate that the format needs, if it needs one. `pcm` is as OpenAI sends it."""
AT_ONCE: Final = frozenset({"wav", "flac"})
"""Formats that state their length at the beginning: their bytes are handed on when the last one is known."""


class AudioEncoder:
    """Encodes mono samples of one rate."""

    def __init__(self, format: AudioFormat, rate: int) -> None:
        container, codec, needed = KINDS[format]
        self._whole = format in AT_ONCE
        self._file = io.BytesIO()
        self._container = av.open(
            self._file, "w", format=container, options={"write_xing": "0"} if format == "mp3" else {}
        )
        self._stream = cast("Any", self._container.add_stream(codec, rate=needed or rate))
        self._stream.layout = "mono"
        self._resampler = av.AudioResampler(format=self._stream.format, layout="mono", rate=needed or rate)
        self._rate = rate

    def feed(self, samples: NDArray[np.int16]) -> bytes:
        """Encode samples. Returns the bytes that are ready, which may be none."""
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._rate
        self._encode(frame)
        return b"" if self._whole else self._taken()

    def finish(self) -> bytes:
        """Return the rest of the file."""
        self._encode(None)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._taken()

    def _encode(self, frame: Any) -> None:
        for ready in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(ready))

    def _taken(self) -> bytes:
        data = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return data
