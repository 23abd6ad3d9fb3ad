"""Structured output, tools and streams of them through OpenAI's own client. Arguments: address, a model whose template takes tools."""

import json
import sys
from typing import Literal

import openai
import pydantic

address, model = sys.argv[1:]
client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120)
question = [{"role": "user", "content": "What is the weather in Oslo?"}]
options = dict(model=model, messages=question, max_tokens=240, temperature=0)


class Book(pydantic.BaseModel):
    title: str = pydantic.Field(max_length=20)
    pages: int = pydantic.Field(ge=1, le=99)
    kind: Literal["novel", "poems"]


class GetWeather(pydantic.BaseModel):
    city: Literal["Oslo", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


# Values of a class, whole and streamed.
whole = client.chat.completions.parse(response_format=Book, **options).choices[0]
assert whole.finish_reason == "stop" and isinstance(whole.message.parsed, Book), whole
with client.chat.completions.stream(response_format=Book, **options) as stream:
    events = list(stream)
    streamed = stream.get_final_completion().choices[0].message.parsed
assert streamed == whole.message.parsed, (streamed, whole)
assert any(event.type == "content.delta" for event in events)
anything = client.chat.completions.create(
    model=model, messages=question, max_tokens=60, response_format={"type": "json_object"}, temperature=0
).choices[0]
assert anything.message.content.startswith("{"), anything

# A tool that must be called.
weather = openai.pydantic_function_tool(GetWeather, name="get_weather")
clock = {"type": "function", "function": {"name": "now"}}
# The small model's context holds one tool and a long answer, or both.
tools = [weather]
for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
    answer = client.chat.completions.create(tools=tools, tool_choice=choice, parallel_tool_calls=False, **options).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None, answer
    (call,) = answer.message.tool_calls
    assert call.id and call.type == "function" and call.function.name == "get_weather", call
    GetWeather.model_validate_json(call.function.arguments)
parsed = client.chat.completions.parse(tools=[weather], tool_choice="required", parallel_tool_calls=False, **options).choices[0].message.tool_calls[0]
assert isinstance(parsed.function.parsed_arguments, GetWeather), parsed

# The same in pieces.
chunks = list(client.chat.completions.create(stream=True, tools=tools, tool_choice=choice, parallel_tool_calls=False, **options))
deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
assert deltas[0].id and deltas[0].function.name == "get_weather" and deltas[0].function.arguments == "", deltas
assert len(deltas) > 5 and all(delta.function.arguments for delta in deltas[1:]), "the arguments come as they are written"
assert all(delta.index == 0 and delta.id is None for delta in deltas[1:]), deltas
assert json.loads("".join(delta.function.arguments for delta in deltas)) == json.loads(call.function.arguments)
assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["tool_calls"]

# What came of it goes into the next turn.
turns = question + [
    {"role": "assistant", "content": None, "tool_calls": [call.model_dump(include={"id", "type", "function"})]},
    {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"},
]
last = client.chat.completions.create(model=model, messages=turns, tools=tools, tool_choice="none", max_tokens=20)
assert last.choices[0].message.tool_calls is None and last.choices[0].message.content, last
free = client.chat.completions.create(tools=[weather, clock], tool_choice="auto", **options).choices[0]
assert free.finish_reason in ("stop", "length", "tool_calls"), free

# What cannot be done is refused before anything is generated.
for extra in [
    dict(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}),
    dict(tools=[{"type": "function", "function": {"name": "a b"}}]),
    dict(tools=tools, tool_choice={"type": "function", "function": {"name": "absent"}}),
    dict(tool_choice="required"),
]:
    try:
        client.chat.completions.create(**options, **extra)
        raise AssertionError(extra)
    except openai.BadRequestError as error:
        assert error.code == "invalid_value" and error.param, error

print(json.dumps({"book": whole.message.parsed.model_dump(), "call": call.function.name}))
