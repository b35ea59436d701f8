"""The web side of the daemon, and what route families use of it: bodies, streams, errors, descriptions.

Route plugins import these names from `ollmlx.web`; only the daemon's command line imports the modules below it.
"""

from __future__ import annotations

from ollmlx.web.context import RequestContext as RequestContext
from ollmlx.web.context import caller as caller
from ollmlx.web.context import current as current
from ollmlx.web.context import permit as permit
from ollmlx.web.context import permits as permits
from ollmlx.web.create_app import create_app as create_app
from ollmlx.web.kit.body import JsonBody as JsonBody
from ollmlx.web.kit.body import parse_json as parse_json
from ollmlx.web.kit.body import read_json as read_json
from ollmlx.web.kit.body import read_model as read_model
from ollmlx.web.kit.body import upload as upload
from ollmlx.web.kit.errors import Failure as Failure
from ollmlx.web.kit.errors import Shape as Shape
from ollmlx.web.kit.errors import declare_errors as declare_errors
from ollmlx.web.kit.errors import plain_shape as plain_shape
from ollmlx.web.kit.forms import FORM as FORM
from ollmlx.web.kit.forms import read_form as read_form
from ollmlx.web.kit.streaming import NDJSON as NDJSON
from ollmlx.web.kit.streaming import SSE as SSE
from ollmlx.web.kit.streaming import embedded as embedded
from ollmlx.web.kit.streaming import ndjson as ndjson
from ollmlx.web.kit.streaming import sse as sse
from ollmlx.web.kit.streaming import tracked as tracked
from ollmlx.web.openapi import BINARY as BINARY
from ollmlx.web.openapi import BOOLEAN as BOOLEAN
from ollmlx.web.openapi import INTEGER as INTEGER
from ollmlx.web.openapi import NUMBER as NUMBER
from ollmlx.web.openapi import OBJECT as OBJECT
from ollmlx.web.openapi import STRING as STRING
from ollmlx.web.openapi import TEXT as TEXT
from ollmlx.web.openapi import Schema as Schema
from ollmlx.web.openapi import describe as describe
from ollmlx.web.openapi import listing as listing
from ollmlx.web.openapi import nullable as nullable
from ollmlx.web.openapi import one_of as one_of
from ollmlx.web.openapi import record as record
from ollmlx.web.state import WebState as WebState
from ollmlx.web.state import declare_home as declare_home
from ollmlx.web.state import declare_public as declare_public
from ollmlx.web.state import declare_upload as declare_upload
from ollmlx.web.state import declare_work as declare_work
from ollmlx.web.state import json_answer as json_answer
from ollmlx.web.state import state_of as state_of

Exchange = RequestContext  # the name in API 1
