"""The frozen types that daemon, plugins and runners share, as one public module. No I/O, no HTTP."""

from __future__ import annotations

from ollmlx.model.events import Admitted as Admitted
from ollmlx.model.events import Answer as Answer
from ollmlx.model.events import Done as Done
from ollmlx.model.events import Event as Event
from ollmlx.model.events import Failed as Failed
from ollmlx.model.events import Prefill as Prefill
from ollmlx.model.events import RawCall as RawCall
from ollmlx.model.events import Text as Text
from ollmlx.model.events import Thinking as Thinking
from ollmlx.model.events import TokenLogprob as TokenLogprob
from ollmlx.model.events import ToolCalled as ToolCalled
from ollmlx.model.installed import INSTALLED as INSTALLED
from ollmlx.model.installed import RECEIPT as RECEIPT
from ollmlx.model.installed import Capability as Capability
from ollmlx.model.installed import CreateRequest as CreateRequest
from ollmlx.model.installed import FetchedFile as FetchedFile
from ollmlx.model.installed import FetchReceipt as FetchReceipt
from ollmlx.model.installed import InstalledModel as InstalledModel
from ollmlx.model.installed import MemoryEstimate as MemoryEstimate
from ollmlx.model.installed import ModelDefaults as ModelDefaults
from ollmlx.model.installed import ModelDetails as ModelDetails
from ollmlx.model.installed import PullCandidate as PullCandidate
from ollmlx.model.installed import PullForecast as PullForecast
from ollmlx.model.installed import PullProgress as PullProgress
from ollmlx.model.installed import RunnerInfo as RunnerInfo
from ollmlx.model.installed import RunnerState as RunnerState
from ollmlx.model.request import Caller as Caller
from ollmlx.model.request import EmbedRequest as EmbedRequest
from ollmlx.model.request import EmbedResult as EmbedResult
from ollmlx.model.request import Frozen as Frozen
from ollmlx.model.request import GenerateRequest as GenerateRequest
from ollmlx.model.request import InputType as InputType
from ollmlx.model.request import Message as Message
from ollmlx.model.request import Options as Options
from ollmlx.model.request import Tool as Tool
from ollmlx.model.request import ToolCall as ToolCall
from ollmlx.model.rerank import Document as Document
from ollmlx.model.rerank import RerankRequest as RerankRequest
from ollmlx.model.rerank import RerankResult as RerankResult
