"""Talks to `knapsack serve` through OpenAI's own client. Arguments: address, two models, a model beyond the budget."""

import json
import sys

import openai

address, first, second, too_large = sys.argv[1:]
client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120)
story = [{"role": "user", "content": "Tell me a story."}]
addition = [{"role": "user", "content": "What is 37 plus 48?"}]


def fails(error, model, **request):
    """The code of the error that a request must end with."""
    try:
        client.chat.completions.create(model=model, messages=request.pop("messages", addition), **request)
    except error as failure:
        assert type(failure) is error, type(failure)
        return failure.code
    raise AssertionError(f"{model} {request} did not fail")


assert [model.id for model in client.models.list()] == [first, second, too_large]
assert client.models.retrieve(first).owned_by == "knapsack"

answer = client.chat.completions.create(model=first, messages=addition, temperature=0)
assert answer.choices[0].message.content == "37 plus 48 is 85.", answer
assert answer.choices[0].finish_reason == "stop"
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

# The two do not fit together: each request evicts the other's model.
stories = {}
for model in [first, second, first, second]:
    options = dict(model=model, messages=story, temperature=0, max_tokens=24)
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 24, whole
    text = whole.choices[0].message.content
    assert stories.setdefault(model, text) == text, (stories[model], text)
for model in [second, first]:
    options = dict(model=model, messages=story, temperature=0, max_tokens=24)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == stories[model]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 24, chunks[-1]

# A client that stops reading.
with client.chat.completions.create(model=first, messages=story, stream=True) as stream:
    next(iter(stream))

assert fails(openai.NotFoundError, "absent") == "model_not_found"
assert fails(openai.NotFoundError, "absent", stream=True) == "model_not_found"
assert fails(openai.BadRequestError, first, n=0) == "invalid_value"
assert fails(openai.BadRequestError, first, extra_body={"best_of": 2}) == "unsupported_parameter"
several = client.chat.completions.create(
    model=first, messages=story, max_tokens=8, n=2, temperature=1.5, seed=3, logprobs=True, top_logprobs=2, user="someone"
)
assert [choice.index for choice in several.choices] == [0, 1] and several.usage.completion_tokens == 16, several
for choice in several.choices:
    assert len(choice.logprobs.content) == 8 and len(choice.logprobs.content[0].top_logprobs) == 2
    assert b"".join(bytes(token.bytes) for token in choice.logprobs.content).decode() == choice.message.content
assert fails(openai.BadRequestError, too_large) == "over_budget"
long = [{"role": "user", "content": "word " * 3000}]
assert fails(openai.BadRequestError, first, messages=long) == "context_length_exceeded"

print(json.dumps(stories))
