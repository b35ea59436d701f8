"""The Modelfile that is shown makes the same model again."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ollmlx.model.modelfile import FENCE, parse_modelfile
from ollmlx.testing.routes import installed
from ollmlx.types import Message, ModelDefaults, Options
from ollmlx_ollama_api.descriptions import modelfile

TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(' "\n#'), max_size=30
).filter(lambda text: text.strip() and FENCE not in text)


@example(system="a line with a space at its end \n", turn="b \n", stop="c \n", temperature=0.0)
@given(system=TEXTS, turn=TEXTS, stop=TEXTS, temperature=st.floats(0, 2))
def test_what_is_shown_reads_back(system: str, turn: str, stop: str, temperature: float) -> None:
    defaults = ModelDefaults(
        system=system,
        options=Options(temperature=temperature, num_ctx=512, stop=("\n", stop, "<|x|>")),
        messages=(Message(role="user", content=turn),),
        license=("MIT",),
    )
    found = parse_modelfile(modelfile(installed("org/name", defaults=defaults)))
    assert found.last("from") == "org/name:latest"
    assert found.last("system") == system
    assert found.keyed("message") == (("user", turn),)
    parameters = dict(found.keyed("parameter"))
    assert (float(parameters["temperature"]), parameters["num_ctx"]) == (temperature, "512")
    assert [value for key, value in found.keyed("parameter") if key == "stop"] == ["\n", stop, "<|x|>"]
    assert found.last("license") == "MIT"
