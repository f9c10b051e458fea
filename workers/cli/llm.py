"""Serve the small local language model."""

from __future__ import annotations

import click

from petiole.workers.llm.local import PORT, server


@click.group
def command() -> None:
    """The small language model that can run on this machine: a toy, which proves the wire."""


@command.command
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65_535), help="0 is any free one.")
def serve(port: int) -> None:
    """Serve it on loopback, in the OpenAI protocol, until Ctrl-C.

    Workers ask it where PETIOLE_LLM=local, at PETIOLE_LLM_BASE_URL.
    """
    server.serve(port, lambda address: click.echo(f"PETIOLE_LLM_BASE_URL={address}/v1"))
