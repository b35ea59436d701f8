"""The vocabulary: frozen words that daemon, plugins and runners share. No I/O, no HTTP."""

from __future__ import annotations

from ollmlx.types.answer import Answer
from ollmlx.types.event import Admitted, Done, Event, Failed, Prefill, Text, Thinking, TokenLogprob, ToolCalled
from ollmlx.types.frozen import Frozen
from ollmlx.types.message import Message, Tool, ToolCall
from ollmlx.types.model import Capability, CreateRequest, InstalledModel, ModelDefaults, ModelDetails
from ollmlx.types.options import Options
from ollmlx.types.progress import PullProgress
from ollmlx.types.receipt import INSTALLED, RECEIPT, FetchedFile, FetchReceipt
from ollmlx.types.request import Caller, EmbedRequest, EmbedResult, GenerateRequest
from ollmlx.types.running import MemoryEstimate, RunnerInfo, RunnerState

__all__ = [
    "INSTALLED",
    "RECEIPT",
    "Admitted",
    "Answer",
    "Caller",
    "Capability",
    "CreateRequest",
    "Done",
    "EmbedRequest",
    "EmbedResult",
    "Event",
    "Failed",
    "FetchReceipt",
    "FetchedFile",
    "Frozen",
    "GenerateRequest",
    "InstalledModel",
    "MemoryEstimate",
    "Message",
    "ModelDefaults",
    "ModelDetails",
    "Options",
    "Prefill",
    "PullProgress",
    "RunnerInfo",
    "RunnerState",
    "Text",
    "Thinking",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCalled",
]
