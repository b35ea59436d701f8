"""Audio files become samples, a few minutes at a time, so a file of hours takes no more memory than a short one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from ollmlx.errors import InvalidRequest

RATE: Final = 16_000
"""Samples of a second, as Whisper hears them."""
PIECE: Final = 240 * RATE
"""Samples that are handed on at once, at most."""
SEARCHED: Final = 30 * RATE
"""The end of a piece, in which a quiet moment is looked for, so that no word is cut."""
MOMENT: Final = RATE // 10
SILENT: Final = 1e-3
"""The loudest sample of silence: 60 dB below the loudest there is."""
CONTAINERS: Final = "aac,ac3,aiff,amr,asf,avi,caf,flac,flv,matroska,webm,mov,mp3,mpeg,mpegts,ogg,w64,wav,wv"
"""Formats of files that are opened. Playlists are not among them: they name other files."""
NAMES: Final = "flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, opus, wav, webm"

Samples = NDArray[np.float32]


def pieces(file: Path) -> Iterator[Samples]:
    """Yield the mono samples of a file. Raises InvalidRequest for a file that holds no audio that can be decoded."""
    held: list[NDArray[np.int16]] = []
    size = 0
    for block in _blocks(file):
        held.append(block)
        size += len(block)
        if size >= PIECE:
            whole = np.concatenate(held)
            end = _quiet_moment(whole[:PIECE])
            yield _floats(whole[:end])
            held, size = [whole[end:]], len(whole) - end
    if size:
        yield _floats(np.concatenate(held))


def _blocks(file: Path) -> Iterator[NDArray[np.int16]]:
    """Decode a file. A file that is damaged later on is heard up to there; nothing of it at all is an error."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    heard = False
    try:
        with av.open(str(file), metadata_errors="ignore", options=options) as container:
            if not container.streams.audio:
                raise InvalidRequest("The file holds no audio.")
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            for frame in chain(_decoded(container, stream), [None]):
                for ready in resampler.resample(frame):
                    heard = True
                    yield np.asarray(ready.to_ndarray(), np.int16).reshape(-1)
    except (av.FFmpegError, ValueError, OSError) as error:
        if not heard:
            raise InvalidRequest(f"Invalid file format. Supported formats: {NAMES}") from error


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield frames; packets that cannot be decoded are passed over, as players do."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            continue


def _quiet_moment(samples: NDArray[np.int16]) -> int:
    """Return where to cut: in the middle of the quietest tenth of a second near the end."""
    start = len(samples) - SEARCHED
    moments = samples[start:].reshape(-1, MOMENT).astype(np.float32)
    return start + int(np.argmin((moments**2).mean(axis=1))) * MOMENT + MOMENT // 2


def is_audible(samples: Samples) -> bool:
    """Return False for a piece that is silent throughout: nobody speaks there, and hours of it are passed over."""
    return float(np.abs(samples).max()) >= SILENT


def _floats(samples: NDArray[np.int16]) -> Samples:
    return samples.astype(np.float32) / np.float32(32768)
