"""Channels, one file each: the ways by which an answer reaches its user."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.channels.channel import Channel
from workers.channels.mailbox import Append, Mailbox
from workers.channels.terminal import Terminal

__all__ = ["Append", "Channel", "Mailbox", "Terminal", "open_channels"]


class _Choice(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PETIOLE_", env_ignore_empty=True)

    terminal: bool = False


def open_channels(append: Append) -> tuple[Channel, ...]:
    """Open the mailbox, and the terminal of this worker where PETIOLE_TERMINAL is true."""
    mailbox = Mailbox(append)
    return (mailbox, Terminal()) if _Choice().terminal else (mailbox,)
