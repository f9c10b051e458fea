"""What endpoints do beside the protocol, each with a public report of it or the kind of endpoint, and the answer to read.

"an error in 200": apache/rocketmq-dashboard#2178; "breaks off": opencode#44385; "an error in a list": Gemini.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.endpoint import Refusal, Reply, a_call, a_chunk, a_usage

DONE = b"data: [DONE]\n\n"
STOP = a_chunk(finish_reason="stop")
CALLED = a_chunk(finish_reason="tool_calls")
UTC, BERN = '{"zone":"UTC"}', '{"zone":"Europe/Zurich"}'


@dataclass(frozen=True)
class Oddity:
    """A reply and what it says: text, calls with their arguments, tokens, and why it ended."""

    report: str
    reply: Reply
    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    tokens: tuple[int, int] = (0, 0)
    finish_reason: str = "stop"


def a_choice(**choice: Any) -> dict[str, Any]:
    return {"id": "c-1", "choices": [choice]}


def a_fragment(**fragment: Any) -> dict[str, Any]:
    return a_chunk(tool_calls=[fragment])


def of(name: str | None, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def a_whole(message: dict[str, Any], finish_reason: str | None = "stop") -> dict[str, Any]:
    return {"object": "chat.completion", "choices": [{"message": message, "finish_reason": finish_reason}]}


TWO = (("clock", {"zone": "UTC"}), ("clock", {"zone": "Europe/Zurich"}))
ONE = (("clock", {"zone": "UTC"}),)
CALLS: dict[str, Any] = {"calls": TWO, "finish_reason": "tool_calls"}
CALL: dict[str, Any] = {"calls": ONE, "finish_reason": "tool_calls"}

ODDITIES = {
    # the body
    "comments keep it alive": Oddity("openai-go#227", [b": OPENROUTER PROCESSING\n\n", a_chunk("Hi"), STOP], "Hi"),
    "comments as data": Oddity("mnfst/llm-gateway#2053", [b"data: : PROCESSING\n\n", a_chunk("Hi"), STOP], "Hi"),
    "pings as events": Oddity("anthropic-style proxies", [b"event: ping\ndata: {}\n\n", a_chunk("Hi"), STOP], "Hi"),
    "empty data": Oddity("keep-alives of gateways", [b"data:\n\n", b"data: \n\n", a_chunk("Hi"), STOP], "Hi"),
    "null and numbers as data": Oddity("keep-alives of gateways", [b"data: null\n\ndata: 7\n\n", a_chunk("Hi"), STOP], "Hi"),
    "retry and id fields": Oddity("WHATWG HTML 9.2.6", [b"retry: 5\nid: 7\n\n", a_chunk("Hi"), STOP], "Hi"),
    "no space after the colon": Oddity("openai-python#498", [b'data:{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'], "Hi"),
    "carriage returns": Oddity("miruamel/xuan#194", [b'data: {"choices":[{"delta":{"content":"Hi"}}]}\r\n\r\ndata: [DONE]\r\n\r\n'], "Hi"),
    "a byte order mark": Oddity("agentic-os-org/ANOLISA#2209", [b'\xef\xbb\xbfdata: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', DONE], "Hi"),
    "no blank line between events": Oddity("mpetazzoni/sseclient#11", [b'data: {"choices":[{"delta":{"content":"H"}}]}\ndata: {"choices":[{"delta":{"content":"i"}}]}\n', DONE], "Hi"),
    "one event over several lines": Oddity("mpetazzoni/sseclient#11", [b'data: {"choices":\ndata: [{"delta":{"content":"Hi"}}]}\n\n', DONE], "Hi"),
    "no blank line at the end": Oddity("rossoctl/cortex#1012", [b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}'], "Hi"),
    "lines without data": Oddity("ollama's own protocol", [b'{"choices":[{"delta":{"content":"H"}}]}\n{"choices":[{"delta":{"content":"i"},"finish_reason":"stop"}]}\n'], "Hi"),
    "chunks in a list": Oddity("Gemini's own protocol", [b'data: [{"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}]\n\n'], "Hi"),
    "a chunk encoded twice": Oddity("double JSON of proxies", [b'data: "{\\"choices\\":[{\\"delta\\":{\\"content\\":\\"Hi\\"}}]}"\n\n', DONE], "Hi"),
    "an answer that is not streamed": Oddity("ChatGPTNextWeb/NextChat#1585", Refusal(200, a_whole({"content": "Hi"}) | {"usage": {"prompt_tokens": 2, "completion_tokens": 1}}), "Hi", tokens=(2, 1)),
    "not streamed, and no reason": Oddity("litellm#4429", Refusal(200, a_whole({"content": "Hi"}, None)), "Hi"),
    "not streamed, then done": Oddity("decolua/9router#3492", [b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}\n\n', DONE], "Hi"),
    "not streamed, over many lines": Oddity("stacklok/codegate#149", Refusal(200, b'{\n "choices": [\n  {"message": {"content": "Hi"}}\n ]\n}\n'), "Hi"),
    "a character split between packets": Oddity("continuedev/continue#13181", [b'data: {"choices":[{"delta":{"content":"\xf0\x9f', b'\x98\x80"}}]}\n\n', DONE], "😀"),
    "bytes that are not UTF-8": Oddity("chrisrude/oobabot#9", [b'data: {"choices":[{"delta":{"content":"Hi\xff"}}]}\n\n', DONE], "Hi�"),
    "control characters in text": Oddity("RFC 8259 section 7", [b'data: {"choices":[{"delta":{"content":"H\ti"}}]}\n\n', DONE], "H\ti"),
    "done in quotes": Oddity("JSON of [DONE]", [a_chunk("Hi"), b'data: "[DONE]"\n\n'], "Hi"),
    "words after done": Oddity("one-api", [a_chunk("Hi"), STOP, DONE, a_chunk(" again")], "Hi"),
    "a connection left open after done": Oddity("keep-alive of proxies", [a_chunk("Hi"), STOP, DONE, 30], "Hi"),
    # chunks
    "choices null": Oddity("pydantic-ai#5165", [a_chunk("Hi") | {"choices": None}, a_chunk("Hi"), STOP], "Hi"),
    "no choices": Oddity("langfuse#6658", [{"id": "c-1"}, a_chunk("Hi"), STOP], "Hi"),
    "choices empty": Oddity("seratch/ChatGPT-in-Slack#49", [{"choices": [], "model": "", "prompt_filter_results": []}, a_chunk("Hi"), STOP], "Hi"),
    "a choice null": Oddity("lists of proxies", [{"choices": [None]}, a_chunk("Hi"), STOP], "Hi"),
    "one choice, no list": Oddity("single objects of proxies", [{"choices": {"delta": {"content": "Hi"}, "finish_reason": "stop"}}], "Hi"),
    "no delta": Oddity("autogen#6465", [a_chunk("Hi"), a_choice(content_filter_offsets={"check_offset": 1}), STOP], "Hi"),
    "delta null": Oddity("langchain#18977", [a_choice(delta=None), a_chunk("Hi"), STOP], "Hi"),
    "no index of the choice": Oddity("aiavatarkit#124", [a_choice(delta={"content": "Hi"}, finish_reason="stop")], "Hi"),
    "other choices beside": Oddity("n > 1 of proxies", [{"choices": [{"index": 0, "delta": {"content": "Hi"}}, {"index": 1, "delta": {"content": "Yo"}}]}, DONE], "Hi"),
    "both delta and message": Oddity("Perplexity", [a_choice(delta={"content": "H"}, message={"content": "H"}), a_choice(delta={"content": "i"}, message={"content": "Hi"}), DONE], "Hi"),
    "text of the older protocol": Oddity("the older completions", [a_choice(text="Hi", finish_reason="stop")], "Hi"),
    "content null with the role": Oddity("every endpoint", [a_chunk(None, role="assistant"), a_chunk("Hi"), STOP], "Hi"),
    "thoughts beside the text": Oddity("langchain#31065", [a_chunk(None, reasoning_content=""), a_chunk(None, reasoning_content="Hm"), a_chunk("Hi", reasoning=None), STOP], "Hi"),
    "text in parts": Oddity("litellm#16272", [a_chunk() | {"choices": [{"delta": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}}]}, a_choice(delta={"content": [{"type": "text", "text": "Hi"}]}), STOP], "Hi"),
    "a number as text": Oddity("JSON-guessing proxies", [a_choice(delta={"content": 42}), STOP], "42"),
    "a refusal": Oddity("openclaw#102334", [a_chunk(None, refusal="I can"), a_chunk(None, refusal="not."), STOP], "I cannot."),
    "a refusal after empty text": Oddity("openai-agents-js#1495", [a_chunk("", refusal="No."), STOP], "No."),
    "half a surrogate pair in each chunk": Oddity("elizaOS#30904", [a_chunk("\ud83d"), a_chunk("\ude00"), STOP], "😀"),
    "half a surrogate pair for good": Oddity("KohakuTerrarium#48", [a_chunk("Hi\udcaf"), STOP], "Hi�"),
    "the model is no text": Oddity("mlflow#12767", [a_chunk("Hi") | {"model": 7}, STOP | {"model": ""}], "Hi"),
    # the end
    "done without a reason": Oddity("M365-Copilot2API#6", [a_chunk("Hi"), DONE], "Hi"),
    "a reason without done": Oddity("ik_llama.cpp#467", [a_chunk("Hi"), STOP], "Hi"),
    "an empty reason in every chunk": Oddity("qualcomm/GenieX#1246", [a_chunk("H", ""), a_chunk("i", ""), DONE], "Hi"),
    "a reason in every chunk": Oddity("QuantumNous/new-api#378", [a_chunk("H", "stop"), a_chunk("i", "stop"), DONE], "Hi"),
    "a reason in capitals": Oddity("Gemini's STOP and MAX_TOKENS", [a_chunk("Hi", "MAX_TOKENS")], "Hi", finish_reason="length"),
    "an unknown reason": Oddity("eos of TGI", [a_chunk("Hi", "eos_token")], "Hi"),
    "a tool reason with text only": Oddity("llama.cpp templates", [a_chunk("Hi", "tool_calls"), DONE], "Hi"),
    # tokens
    "usage null": Oddity("vLLM", [a_chunk("Hi") | {"usage": None}, STOP], "Hi"),
    "usage so far in every chunk": Oddity("litellm", [a_chunk("H") | a_chunk("H") | {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}, a_chunk("i", "stop") | {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}], "Hi", tokens=(5, 2)),
    "usage in the choice": Oddity("earendil-works/pi#2017", [a_choice(delta={"content": "Hi"}, finish_reason="stop", usage={"prompt_tokens": 5, "completion_tokens": 2})], "Hi", tokens=(5, 2)),
    "usage of Groq": Oddity("x_groq", [a_chunk("Hi", "stop") | {"x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}}], "Hi", tokens=(5, 2)),
    "usage by other names": Oddity("input_tokens", [a_chunk("Hi", "stop") | {"usage": {"input_tokens": 5, "output_tokens": 2}}], "Hi", tokens=(5, 2)),
    "usage as fractions and text": Oddity("JavaScript proxies", [a_chunk("Hi", "stop") | {"usage": {"prompt_tokens": 5.0, "completion_tokens": "2"}}], "Hi", tokens=(5, 2)),
    "usage that is nonsense": Oddity("negative counts", [a_chunk("Hi", "stop") | {"usage": {"prompt_tokens": -1, "completion_tokens": 10**30}}], "Hi"),
    "usage that is a list": Oddity("empty PHP arrays", [a_chunk("Hi", "stop") | {"usage": []}], "Hi"),
    # calls
    "calls end with stop": Oddity("python-genai#2868", [a_call(0, "clock", UTC), STOP], **CALL),
    "calls end without a reason": Oddity("opencode#43882", [a_call(0, "clock", UTC), DONE], **CALL),
    "calls without an index": Oddity("agentao#117", [a_fragment(id="a", function=of("clock", UTC)), a_fragment(id="b", function=of("clock", BERN)), CALLED], **CALLS),
    "calls without index and id": Oddity("goose#10023", [a_fragment(function=of("clock", UTC)), a_fragment(function=of("clock", BERN)), CALLED], **CALLS),
    "all calls under one index": Oddity("ai-dynamo/dynamo#4723", [a_fragment(index=0, id="a", function=of("clock", UTC)), a_fragment(index=0, id="b", function=of("clock", BERN)), CALLED], **CALLS),
    "one index, no ids": Oddity("hermes-agent#3468", [a_fragment(index=0, function=of("clock", UTC)), a_fragment(index=0, function=of("clock", BERN)), CALLED], **CALLS),
    "id and name in every fragment": Oddity("spring-ai#5973", [a_fragment(index=0, id="a", function=of("clock", '{"zone":')), a_fragment(index=0, id="a", function=of("clock", '"UTC"}')), CALLED], **CALL),
    "fragments of calls mixed": Oddity("Qwen-Agent#943", [a_call(0, "clock", '{"zone":'), a_call(1, "clock", '{"zone":'), a_call(0, None, '"UTC"}'), a_call(1, None, '"Europe/Zurich"}'), CALLED], **CALLS),
    "the index as text": Oddity("JavaScript proxies", [a_fragment(index="0", function=of("clock", UTC)), CALLED], **CALL),
    "an empty id": Oddity("autogen#4878", [a_fragment(index=0, id="", function=of("clock", UTC)), STOP], **CALL),
    "arguments as an object": Oddity("ollama's own protocol", [a_fragment(index=0, function=of("clock", {"zone": "UTC"})), CALLED], **CALL),
    "arguments null, then text": Oddity("ogx#5462", [a_fragment(index=0, id="a", function=of("clock", None)), a_call(0, None, UTC), CALLED], **CALL),
    "no arguments": Oddity("vllm#19419", [a_fragment(index=0, function={"name": "clock"}), CALLED], calls=(("clock", {}),), finish_reason="tool_calls"),
    "arguments that are null": Oddity("haystack#9408", [a_call(0, "clock", "null"), CALLED], calls=(("clock", {}),), finish_reason="tool_calls"),
    "arguments encoded twice": Oddity("tool parsers of servers", [a_call(0, "clock", '"{\\"zone\\":\\"UTC\\"}"'), CALLED], **CALL),
    "a line break in arguments": Oddity("llama.cpp#22072", [a_call(0, "clock", '{"zone":"UTC\n"}'), CALLED], calls=(("clock", {"zone": "UTC\n"}),), finish_reason="tool_calls"),
    "a surrogate pair split in arguments": Oddity("rakazo#416", [a_call(0, "clock", '{"zone":"\ud83d'), a_call(0, None, '\ude00"}'), CALLED], calls=(("clock", {"zone": "😀"}),), finish_reason="tool_calls"),
    "one call, no list": Oddity("single objects of proxies", [a_chunk(tool_calls={"index": 0, "function": of("clock", UTC)}), CALLED], **CALL),
    "null among the calls": Oddity("lists of proxies", [a_chunk(tool_calls=[None, {"index": 0, "function": of("clock", UTC)}]), CALLED], **CALL),
    "a call without a function": Oddity("OpenAI's final fragment", [a_call(0, "clock", UTC), a_fragment(index=0, function=None), CALLED], **CALL),
    "the older function_call": Oddity("simonw/llm#294", [a_chunk(function_call=of("clock", '{"zone":')), a_chunk(function_call=of(None, '"UTC"}')), a_chunk(finish_reason="function_call")], **CALL),
    "a namespace before the name": Oddity("gpt-4o and Gemini prompts", [a_call(0, "functions.clock", UTC), a_call(1, "default_api:clock", BERN), CALLED], **CALLS),
    "spaces around the name": Oddity("small models", [a_call(0, " clock\n", UTC), CALLED], **CALL),
    "a name in pieces": Oddity("token-wise servers", [a_call(0, "clo", ""), a_call(0, "ck", UTC), CALLED], **CALL),
    "calls in an answer that is not streamed": Oddity("hermes-agent#56713", Refusal(200, a_whole({"content": None, "tool_calls": [{"id": "a", "function": of("clock", UTC)}, {"id": "b", "function": of("clock", BERN)}]}, "tool_calls")), **CALLS),
    "text and usage around calls": Oddity("envoyproxy/ai-gateway#2399", [a_chunk("Hm."), a_call(0, "clock", UTC), STOP, a_usage(), DONE], "Hm.", tokens=(11, 3), **CALL),
}  # fmt: skip

REFUSED = {
    "nothing": [DONE],
    "no text": [a_choice(delta={"content": [None, {"type": "image"}]}, finish_reason="stop")],
    "only thoughts": [a_chunk(None, reasoning_content="Hm"), STOP],
    "only blanks": [a_chunk("\n \t"), STOP],
    "calls nothing": [CALLED],
    "an error that stays": [a_chunk("Hel"), {"error": {"code": 401, "message": "no key"}}],
}
"""Replies that mean never."""

BROKEN = {
    "breaks off": [a_chunk("Hel")],
    "breaks off in a chunk": [a_chunk("Hel"), b'data: {"choices":\n\n'],
    "an error": [a_chunk("Hel"), {"error": {"message": "overloaded"}}],
    "an error as text": [a_chunk("Hel"), {"error": "overloaded"}],
    "an error event": [a_chunk("Hel"), b'event: error\ndata: {"message": "overloaded"}\n\n'],
    "an error event without JSON": [a_chunk("Hel"), STOP, b"event: error\ndata: overloaded\n\n"],
    "an error with a status that passes": [a_chunk("Hel"), {"error": {"code": 502, "message": "upstream"}}],
    "an error in a list": [b'data: [{"error": {"code": 503, "message": "overloaded"}}]\n\n'],
    "an error as the reason": [a_chunk("Hel"), a_chunk(finish_reason="error")],
    "given up": [a_chunk("Hel"), a_chunk(finish_reason="abort")],
    "broken arguments": [a_call(0, "clock", "{ broken"), CALLED],
    "cut arguments": [a_call(0, "clock", '{"zone":'), a_chunk(finish_reason="length")],
    "a list of arguments": [a_call(0, "clock", "[1]"), CALLED],
    "arguments that no event holds": [a_call(0, "clock", '{"zone": NaN}'), CALLED],
    "no name": [a_call(0, "", "{}"), CALLED],
    "nested too deeply": [b"data: " + b'{"choices":[' * 50_000 + b"\n\n"],
}
"""Replies that mean later."""
