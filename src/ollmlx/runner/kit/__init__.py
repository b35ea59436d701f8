"""The parts that engines share: turns, truncation, tool choice, stop strings, insert markers, `SerialEngine`.

Engines import these names from here. Stores may, too: the kit imports nothing of the runner's program and no engine.
"""

from __future__ import annotations

from ollmlx.runner.kit.answers import RepeatGuard as RepeatGuard
from ollmlx.runner.kit.answers import StopFilter as StopFilter
from ollmlx.runner.kit.prompts import INSERT_MARKERS as INSERT_MARKERS
from ollmlx.runner.kit.prompts import InsertMarkers as InsertMarkers
from ollmlx.runner.kit.prompts import OldestFirst as OldestFirst
from ollmlx.runner.kit.prompts import bounded_text as bounded_text
from ollmlx.runner.kit.prompts import call_schema as call_schema
from ollmlx.runner.kit.prompts import chat_turn as chat_turn
from ollmlx.runner.kit.prompts import context_exceeded as context_exceeded
from ollmlx.runner.kit.prompts import cut_tokens as cut_tokens
from ollmlx.runner.kit.prompts import find_insert_markers as find_insert_markers
from ollmlx.runner.kit.prompts import fit_messages as fit_messages
from ollmlx.runner.kit.prompts import fit_tokens as fit_tokens
from ollmlx.runner.kit.prompts import freeform_call as freeform_call
from ollmlx.runner.kit.prompts import has_insert_markers as has_insert_markers
from ollmlx.runner.kit.prompts import knows_effort as knows_effort
from ollmlx.runner.kit.prompts import later_systems_into_user as later_systems_into_user
from ollmlx.runner.kit.prompts import offered_tools as offered_tools
from ollmlx.runner.kit.prompts import template_thinking as template_thinking
from ollmlx.runner.kit.prompts import thinking_budget as thinking_budget
from ollmlx.runner.kit.prompts import tool_function as tool_function
from ollmlx.runner.kit.prompts import truncation_target as truncation_target
from ollmlx.runner.kit.schemas import check_lark as check_lark
from ollmlx.runner.kit.schemas import check_schema as check_schema
from ollmlx.runner.kit.schemas import one_by_one as one_by_one
from ollmlx.runner.kit.serial import SerialEngine as SerialEngine
from ollmlx.runner.kit.texts import TextFrame as TextFrame
from ollmlx.runner.kit.texts import document_room as document_room
