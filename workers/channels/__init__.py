"""Channels, one file each: the ways by which an answer reaches its user."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

from petiole.workers.channels.channel import Channel, Repetition
from petiole.workers.channels.mailbox import Append, Mailbox
from petiole.workers.channels.terminal import Terminal
from petiole.workers.channels.webhook import Webhook, open_webhook

__all__ = ["Append", "Channel", "Mailbox", "Repetition", "Terminal", "Webhook", "open_channels"]


class _Choice(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PETIOLE_", env_ignore_empty=True)

    terminal: bool = False


def open_channels(append: Append) -> tuple[Channel, ...]:
    """Open the mailbox, the webhook where PETIOLE_WEBHOOK_URL names one, and with PETIOLE_TERMINAL this terminal.

    Raises: UsageError (missing_extra), NotConfigured.
    """
    webhook, shows = open_webhook(), _Choice().terminal
    found: list[Channel] = [Mailbox(append)]
    found += [webhook] if webhook else []
    return (*found, Terminal()) if shows else tuple(found)
