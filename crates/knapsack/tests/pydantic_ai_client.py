"""Structured answers and tools through pydantic-ai, which builds its requests on OpenAI's client. Arguments: address, a model whose
template takes tools."""

import asyncio
import json
import sys
from typing import Literal

import pydantic
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelContextWindowExceededError, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

address, name = sys.argv[1:]
model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=address, api_key="none"))
settings = {"max_tokens": 200, "temperature": 0.0, "seed": 1}


class Book(pydantic.BaseModel):
    title: str = pydantic.Field(max_length=20)
    pages: int = pydantic.Field(ge=1, le=99)
    kind: Literal["novel", "poems"]


class Weather(pydantic.BaseModel):
    city: Literal["Oslo", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


# As a `response_format`.
native = Agent(model, output_type=NativeOutput(Book), model_settings=settings)
book = native.run_sync("Invent a book.").output
assert isinstance(book, Book), book


async def streamed():
    async with native.run_stream("Invent a book.") as run:
        pieces = [piece async for piece in run.stream_output(debounce_by=None)]
        return pieces[-1], await run.get_output()


last, whole = asyncio.run(streamed())
assert last == whole == book, (last, whole, book)

# As a tool that has to be called, whole and streamed.
by_tool = Agent(model, output_type=ToolOutput(Weather, name="weather"), model_settings=settings)
weather = by_tool.run_sync("Weather?").output
assert isinstance(weather, Weather), weather


async def streamed_by_tool():
    async with by_tool.run_stream("Weather?") as run:
        return await run.get_output()


assert asyncio.run(streamed_by_tool()) == weather

# A function of the program's, and then an answer: which of the two a step calls is the model's choice, drawn at random.
called = []
helped = Agent(model, output_type=ToolOutput(Weather, name="weather"))


@helped.tool_plain
def now(zone: Literal["UTC", "CET"]) -> str:
    called.append(zone)
    return "9:00"


for seed in range(60):
    before = len(called)
    drawn = {"max_tokens": 150, "temperature": 1.2, "seed": seed}
    try:
        answer = helped.run_sync("?", model_settings=drawn, usage_limits=UsageLimits(request_limit=3))
    except (UsageLimitExceeded, UnexpectedModelBehavior, ModelContextWindowExceededError):
        # A model of four layers may call it again and again, or not come to an end.
        continue
    assert isinstance(answer.output, Weather), answer
    if len(called) > before:
        break
else:
    raise AssertionError(f"never a call and then an answer: {called}")
assert set(called) <= {"UTC", "CET"}, called

print(json.dumps({"book": book.model_dump(), "weather": weather.model_dump(), "called": len(called)}))
