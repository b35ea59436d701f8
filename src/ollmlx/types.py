"""The vocabulary: frozen words that daemon, plugins and runners share. No I/O, no HTTP."""

from __future__ import annotations

from ollmlx.model.answer import Answer
from ollmlx.model.events import Admitted, Done, Event, Failed, Prefill, Text, Thinking, TokenLogprob, ToolCalled
from ollmlx.model.frozen import Frozen
from ollmlx.model.installed import Capability, CreateRequest, InstalledModel, ModelDefaults, ModelDetails
from ollmlx.model.message import Message, Tool, ToolCall
from ollmlx.model.options import Options
from ollmlx.model.progress import PullProgress
from ollmlx.model.receipt import INSTALLED, RECEIPT, FetchedFile, FetchReceipt
from ollmlx.model.request import Caller, EmbedRequest, EmbedResult, GenerateRequest
from ollmlx.model.running import MemoryEstimate, RunnerInfo, RunnerState

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
