"""Tool calls in answers: calls in another shape than the model's template asks for, broken JSON, arguments that fit.

The service passes every answer to a request with tools through `stream.read_calls`. Pure; imports only `types`.
"""

from __future__ import annotations
