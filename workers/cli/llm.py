"""Serve the small local language model."""

from __future__ import annotations

import click

from petiole.workers.llm.local import DEFAULT_PORT, server


@click.group
def command() -> None:
    """Serve the small local language model, which is for tests of the connection and not for real answers."""


@command.command
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="The port to listen on; 0 selects a free one.",
)
def serve(port: int) -> None:
    """Serve the model on loopback, with the OpenAI protocol, until Ctrl-C.

    Workers use it with PETIOLE_LLM=local and PETIOLE_LLM_BASE_URL.
    """
    server.serve_model(port, lambda address: click.echo(f"PETIOLE_LLM_BASE_URL={address}/v1"))
