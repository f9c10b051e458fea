"""Read the body of an answer as JSON documents, whatever form the endpoint gives it.

Endpoints and the proxies before them differ in what stands around the documents. All of these are read:

    data: {…}      server-sent events, with or without the blank line between two of them or the space after the colon
    {…}            one document in each line, or one document over the whole body
    : ping         keep-alives: comments, events without data, words that are no JSON, null, numbers
    data: [DONE]   the end, also quoted

Source: WHATWG HTML, section 9.2.6; what else occurs is listed in tests/contracts/language_models/oddities.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Final, Literal, TypeAlias

Document: TypeAlias = "dict[str, object] | Literal['done', 'error', 'broken', 'whole']"
"""A JSON object; `done` for the end that the endpoint names; `whole` before a body that is no stream, and so has an
end; `error` before the document of an error event; `broken` for a document that breaks off."""

_BOM: Final = "\ufeff"


async def read_documents(body: AsyncIterable[bytes]) -> AsyncGenerator[Document, None]:
    """Yield the JSON objects of a body. Lists are taken apart, and everything else is left out."""
    parser = _BodyParser()
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n") if b"\n" in part else (rest + part,)
        for line in lines:
            for document in parser.read_line(line):
                yield document
    for document in (*parser.read_line(rest), *parser.finish()):
        yield document


class _BodyParser:
    def __init__(self) -> None:
        self._data: list[str] = []
        self._plain: list[str] = []

    def read_line(self, raw: bytes) -> Iterator[Document]:
        line = raw.decode("utf-8", "replace").removeprefix(_BOM).rstrip("\r")
        field, _, value = line.partition(":")
        match field.strip():
            case "":
                yield from () if line.startswith(":") else self._end_event()
            case "data":
                yield from self._read_data(value.strip())
            case "event":
                if value.strip() == "error":
                    yield "error"
            case "id" | "retry":
                pass
            case _:
                self._plain.append(line)

    def _read_data(self, text: str) -> Iterator[Document]:
        try:
            documents = list(_read_json(text))
        except ValueError:
            self._data.append(text)
            return
        self._data.clear()
        if self._plain and "done" in documents:
            yield from self._end_body()
        yield from documents

    def _end_event(self) -> Iterator[Document]:
        """Read data that stands in several lines."""
        text = "\n".join(self._data)
        self._data.clear()
        if not text:
            return
        try:
            yield from _read_json(text)
        except ValueError:
            if text.startswith(("{", "[")):  # else it is a keep-alive
                yield "broken"

    def finish(self) -> Iterator[Document]:
        """Read what the last blank line did not end, and a body that has no `data:`."""
        yield from self._end_event()
        yield from self._end_body()

    def _end_body(self) -> Iterator[Document]:
        lines, self._plain = self._plain, []
        try:
            documents = list(_read_json("\n".join(lines)))
        except ValueError:
            for line in lines:
                yield from self._read_data(line.strip())
            self._data.clear()
            return
        yield "whole"
        yield from documents


def _read_json(text: str) -> Iterator[Document]:
    """Yield the objects of a text. Raises ValueError if it is no JSON."""
    if text.strip('"').startswith("[DONE]"):
        yield "done"
        return
    try:
        value: object = json.loads(text, strict=False)
        if isinstance(value, str) and value.startswith("{"):  # a proxy encoded it twice
            value = json.loads(value, strict=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    for document in value if isinstance(value, list) else [value]:
        if isinstance(document, dict):
            yield document
