"""The real model as one that thinks: a chat template that opens a thought, and what a budget does to it."""

from __future__ import annotations

from ollmlx.testing import RunnerProcess
from ollmlx.types import GenerateRequest, Message, Options

THINKING_TEMPLATE = """{%- for m in messages %}
{%- if m.role == 'assistant' and m.reasoning_content %}<|im_start|>assistant
<think>
{{ m.reasoning_content }}
</think>

{{ m.content }}<|im_end|>
{%- else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{%- if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% else %}<think>
{% endif %}{%- endif %}"""


async def check_budget(runner: RunnerProcess) -> None:
    """Ask with and without a budget: with one the same thought ends early, and the answer begins."""
    # It does not know the tags, and would end the conversation: its three ends are forbidden.
    turns = (Message(role="user", content="Write a long story about a fox and a hen."),)
    free, held = [
        await runner.generate(
            GenerateRequest(
                messages=turns,
                think=True,
                max_thinking_tokens=budget,
                options=Options(temperature=0, num_predict=40, logit_bias=dict.fromkeys(range(3), -100.0)),
            )
        )
        for budget in (None, 8)
    ]
    thought, ended = ("".join(event.text for event in events if event.type == "thinking") for events in (free, held))
    assert 0 < len(ended) < len(thought), (thought, ended, free[-3:])
    assert thought.startswith(ended.rstrip())
    assert not [event for event in free if event.type == "text"]
    assert [event for event in held if event.type == "text"]
