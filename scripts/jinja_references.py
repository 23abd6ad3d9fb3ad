#!/usr/bin/env python3
"""Renders the templates of crates/knapsack-jinja/tests/python.json with the environment of transformers and writes what came out.

    pip install transformers jinja2
    scripts/jinja_references.py crates/knapsack-jinja/tests/python.json

Each case has a `template`; `rendered` is what transformers makes of it with the context of this file, null where it fails.
"""

import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be <brief> & \"kind\"."},
        {"role": "user", "content": "Hi  there, it's\tme\n"},
        {"role": "assistant", "content": "<think>\nwell\n</think>\n\nHéllo wörld 日本", "n": 3},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "number", "items": [1, 2.5, None, True]}}}}],
    "text": "The quick  brown fox",
    "numbers": [3, 1, 2],
    "empty": [],
    "nothing": None,
    "yes": True,
    "pi": 3.14159,
    "items": {"b": 2, "a": 1, "C": 3},
}


def main():
    path = sys.argv[1]
    cases = json.load(open(path, encoding="utf-8"))
    for case in cases:
        try:
            case["rendered"] = _compile_jinja_template(case["template"]).render(**CONTEXT)
        except Exception as error:
            case["rendered"] = None
            print(f"{case['template']!r}: {type(error).__name__}: {error}", file=sys.stderr)
    lines = ",\n".join(" " + json.dumps(case, ensure_ascii=False) for case in cases)
    with open(path, "w", encoding="utf-8") as out:
        out.write(f"[\n{lines}\n]\n")
    with open(path.replace("python.json", "context.json"), "w", encoding="utf-8") as out:
        json.dump(CONTEXT, out, ensure_ascii=False, indent=1)
        out.write("\n")


main()
