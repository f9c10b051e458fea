"""Sessions, as those see them who bring in what users say."""

from __future__ import annotations

from tasks.celery import app
from tasks.context import current_context


def open_stream(stream_id: str) -> bool:
    """Open a stream unless it is open; returns whether this call opened it, which is true once per stream."""
    context = current_context()
    return (context.app if context else app).stores.sessions.open(stream_id)
