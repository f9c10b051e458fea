from __future__ import annotations

import json
import tracemalloc

import pytest
from kombu.exceptions import DecodeError

from petiole.tasks.consuming.message_validation import MAX_NESTING, decode


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        '{"a" : 1, "b"\t:\r\n{"c": [1.5, -0.0, 1e300, null, true]}}',
        '{"a": "\\"a\\": 1, \\"a\\": 2"}',
        '{"a": "\\ud83d\\ude00"}',
        '[{"a": 1}, {"a": 2}]',
        "[" * MAX_NESTING + "]" * MAX_NESTING,
    ],
)
def test_strict_json_is_decoded(text):
    assert decode(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 1}', "occurs twice"),
        (b'{"a" : 1, "a":1}', "occurs twice"),
        (b'{"a" : 1, "a"\n: "\\":"}', "occurs twice"),
        (b'[{"x": {"a":1,"\\u0061":2}}]', "occurs twice"),
        (b"[NaN]", "NaN is not valid JSON"),
        (b"[-Infinity]", "-Infinity is not valid JSON"),
        (b"[1e999]", "is too large"),
        (b"[" + b"1" * 5_000 + b"]", "ValueError"),
        (b'["\\ud800"]', "surrogates"),
        (b'["\\uDfff"]', "surrogates"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1), "nested deeper"),
        (b"[" * 100_000, "RecursionError"),
        (b"", "JSONDecodeError"),
        (b"[" + b"[]," * 600_000 + b"0]", "more than 510,000 values"),
    ],
)
def test_ambiguous_json_is_refused(text, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(text)


@pytest.mark.parametrize("value", [b"[]", b'{"":[]}', b"[" * 150 + b"]" * 150, b'"ab"'])
def test_json_of_many_small_values_takes_little_memory(value):
    body = b"[" + b",".join([value] * (20_000_000 // len(value))) + b"]"

    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="more than 510,000 values"):
            decode(body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 100_000_000  # parsed, it takes 400 MB and more


def test_a_text_may_have_any_signs():
    body = json.dumps({"text": '1,2,[3],{"x": "\\"}\n' * 300_000})

    assert decode(body) == json.loads(body)
