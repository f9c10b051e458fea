"""A language model with a bug; FAULTS names them, and PETIOLE_TEST_FAULT chooses one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from petiole.events.catalog.llm import Usage
from petiole.events.catalog.orchestrator import ModelRequest
from petiole.events.errors import Retryable
from petiole.workers.llm.provider import Finished, ResponsePart, TextDelta, ToolCallRequested


class Unprintable(Exception):  # noqa: N818 - not about an error's name
    def __str__(self) -> str:
        raise RuntimeError("no words")


BUGS: dict[str, BaseException] = {
    "a TypeError": TypeError("'NoneType' object is not iterable"),
    "half a surrogate pair": ValueError("\ud83d" * 10_000),
    "no words": Unprintable(),
    "sys.exit": SystemExit(3),
    "a cancellation": asyncio.CancelledError(),
    "no memory": MemoryError(),
    "too deep": RecursionError(),
    "a connection error": ConnectionError("reset"),
    "an error of Petiole": Retryable("later"),
    "a timeout": TimeoutError("slow"),
}
PARTS: dict[str, Any] = {
    "no end": TextDelta("Hel"),
    "no part": "Hello",
    "text that is none": TextDelta(None),  # type: ignore[arg-type]  # the bug
    "no usage": Finished("faulty", usage=None),  # type: ignore[arg-type]  # the bug
    "no text": Finished("faulty"),
    "blank text": TextDelta(" \n"),
    "a usage below zero": Finished("faulty", usage=Usage.model_construct(input_tokens=-5, output_tokens=10**30)),
    "many calls": Finished("faulty", finish_reason="tool_calls"),
}
FAULTS = [*BUGS, *PARTS, "no generator", "raises when asked", "raises when closed", "no name", "no model"]


class Faulty:
    @property
    def name(self) -> str:
        """A name for each fault, because each name has a circuit breaker."""
        fault = os.environ["PETIOLE_TEST_FAULT"]
        return 7 if fault == "no name" else fault  # type: ignore[return-value]  # the bug

    @property
    def model(self) -> str:
        if os.environ["PETIOLE_TEST_FAULT"] == "no model":
            raise KeyError("model")
        return "faulty"

    def answer(self, request: ModelRequest, tools: object = ()) -> AsyncIterator[ResponsePart]:
        fault = os.environ["PETIOLE_TEST_FAULT"]
        if fault == "raises when asked":
            raise KeyError(fault)
        return None if fault == "no generator" else self._answer(fault)  # type: ignore[return-value]  # the bug

    async def _answer(self, fault: str) -> AsyncIterator[ResponsePart]:
        try:
            if fault in BUGS:
                yield TextDelta("Hel")
                raise BUGS[fault]
            if fault == "many calls":
                for number in range(1_001):
                    yield ToolCallRequested("clock", {"days": number})
            if fault == "a usage below zero":
                yield TextDelta("Hello")
            yield PARTS.get(fault, "no part")
            if fault == "blank text":
                yield Finished("faulty")
        finally:
            if fault == "raises when closed":
                raise KeyError(fault)
