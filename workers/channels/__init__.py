"""Channels, one file each: the ways by which an answer reaches its user."""

from __future__ import annotations

from petiole.workers.channels.channel import Channel, Repetition
from petiole.workers.channels.mailbox import Append, Mailbox
from petiole.workers.channels.terminal import Terminal
from petiole.workers.channels.webhook import Webhook, open_webhook
from petiole.workers.settings import WorkerSettings

__all__ = ["Append", "Channel", "Mailbox", "Repetition", "Terminal", "Webhook", "open_channels"]


def open_channels(append: Append) -> tuple[Channel, ...]:
    """Open the mailbox; the webhook with PETIOLE_WEBHOOK_URL; this terminal with PETIOLE_TERMINAL_CHANNEL.

    Raises: UsageError (missing_extra), NotConfigured.
    """
    webhook, shows = open_webhook(), WorkerSettings().terminal_channel
    found: list[Channel] = [Mailbox(append)]
    found += [webhook] if webhook else []
    return (*found, Terminal()) if shows else tuple(found)
