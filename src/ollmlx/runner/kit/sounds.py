"""Audio files become samples, a few minutes at a time, so a file of hours takes no more memory than a short one.

Imported by engines that hear, and by no other part of the kit: it imports PyAV.
"""

from __future__ import annotations

import io
import wave
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from ollmlx.errors import InvalidRequest
from ollmlx.types import Message

RATE: Final = 16_000
"""Samples of a second, as Whisper hears them."""
PIECE: Final = 240 * RATE
"""Samples that are handed on at once, at most."""
SEARCHED: Final = 30 * RATE
"""The end of a piece, in which a quiet moment is looked for, so that no word is cut."""
MOMENT: Final = RATE // 10
SILENT: Final = 1e-3
"""The loudest sample of silence: 60 dB below the loudest there is."""
MOST_HOURS: Final = 24
"""The longest file that is heard. A header may state one sample a second: then 100 KB are 14 hours."""
MOST_BYTES: Final = 48 << 20
MOST_SECONDS: Final = 30 * 60
"""The largest and the longest sound in a conversation."""
CONTAINERS: Final = "aac,ac3,aiff,amr,asf,avi,caf,flac,flv,matroska,webm,mov,mp3,mpeg,mpegts,ogg,w64,wav,wv"
"""Formats of files that are opened. Playlists are not among them: they name other files."""
NAMES: Final = "flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, opus, wav, webm"

Samples = NDArray[np.float32]


def pieces(file: Path) -> Iterator[Samples]:
    """Yield the mono samples of a file.

    Raises InvalidRequest for a file that holds no audio that can be decoded, or more than MOST_HOURS of it.
    """
    held: list[NDArray[np.int16]] = []
    size, left = 0, MOST_HOURS * 3600 * RATE
    for block in _blocks(str(file)):
        left -= len(block)
        if left < 0:
            raise InvalidRequest(f"The file holds more than {MOST_HOURS} hours of sound.")
        held.append(block)
        size += len(block)
        if size >= PIECE:
            whole = np.concatenate(held)
            end = _quiet_moment(whole[:PIECE])
            yield _floats(whole[:end])
            held, size = [whole[end:]], len(whole) - end
    if size:
        yield _floats(np.concatenate(held))


def as_wav(sound: str) -> str:
    """Return a sound of a conversation as a WAV file with RATE samples of one channel a second; both in base64.

    Raises InvalidRequest for what is no sound, or too large or too long a one. The shortest is a MOMENT.
    """
    if len(sound) > MOST_BYTES * 4 // 3 + 4:
        raise _refused(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        data = b64decode(sound, validate=True)
    except ValueError as error:
        raise _refused("it is not base64") from error
    written, size = io.BytesIO(), 0
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        try:
            for block in _blocks(io.BytesIO(data)):
                size += len(block)
                if size > MOST_SECONDS * RATE:
                    raise InvalidRequest(f"It is longer than {MOST_SECONDS // 60} minutes.")
                file.writeframesraw(block.tobytes())
        except InvalidRequest as refusal:
            raise _refused(refusal.message) from refusal
        file.writeframesraw(bytes(2 * max(0, MOMENT - size)))
    return b64encode(written.getvalue()).decode()


def with_wavs(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return a conversation whose sounds are files as `as_wav` makes them. Raises as it does."""
    return tuple(message.model_copy(update={"audio": tuple(map(as_wav, message.audio))}) for message in messages)


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"invalid audio input: {reason[0].lower()}{reason[1:].rstrip('.')}")


def _blocks(file: str | io.BytesIO) -> Iterator[NDArray[np.int16]]:
    """Decode a file. A file that is damaged later on is heard up to there; nothing of it at all is an error."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    heard = False
    try:
        with av.open(file, metadata_errors="ignore", options=options) as container:
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
