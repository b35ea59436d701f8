"""Helper processes: they run a function on what a stranger wrote, with limits of CPU time, memory and output.

Everything may import it; it imports only the errors.
"""

from __future__ import annotations

from ollmlx.helper.pool import LimitExceeded as LimitExceeded
from ollmlx.helper.pool import close_helpers as close_helpers
from ollmlx.helper.pool import run_limited as run_limited
