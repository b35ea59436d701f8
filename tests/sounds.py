"""Audio files for the tests, and how far a text is from the one that was spoken."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SPOKEN_RATE = 16_000


def tone(step: float, seconds: int = 2) -> Any:
    """Return samples of a tone; `step` is its pitch."""
    return (np.sin(np.arange(SPOKEN_RATE * seconds) * step) * 9000).astype(np.int16)


def write_sound(
    path: Path, blocks: Iterable[Any], *, codec: str = "pcm_s16le", rate: int = SPOKEN_RATE, layout: str = "mono"
) -> Path:
    """Write blocks of 16-bit samples, 16,000 a second, as a file of another rate."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = layout
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for block in (*blocks, None):
            frame = None
            if block is not None:
                frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="s16", layout="mono")
                frame.sample_rate = SPOKEN_RATE
            for ready in resampler.resample(frame):
                container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path


def samples_of(path: Path) -> Any:
    """Return the samples of a file, 16,000 a second."""
    import av

    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SPOKEN_RATE)
        frames = [ready for frame in container.decode(audio=0) for ready in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def word_error_rate(spoken: str, written: str) -> float:
    """Return the words to change, to add and to leave out, as a share of the words that were spoken."""
    wanted, found = (re.findall(r"[a-z']+", text.lower()) for text in (spoken, written))
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(found, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1] / len(wanted)
