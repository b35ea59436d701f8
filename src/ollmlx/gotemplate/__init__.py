"""Go's text/template language, as the templates of Ollama's models use it: parsed and evaluated here, within limits.

Pure; it imports only the errors.
"""

from __future__ import annotations

from ollmlx.gotemplate.chat import GoChatTemplate as GoChatTemplate
from ollmlx.gotemplate.evaluation import execute as execute
from ollmlx.gotemplate.parser import ParsedTemplate as ParsedTemplate
from ollmlx.gotemplate.parser import parse as parse
