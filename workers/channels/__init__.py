"""Output channels, one file each. Entered by `open_channels`."""

from __future__ import annotations

from petiole.workers.channels.channel import DuplicateBehavior, OutputChannel
from petiole.workers.channels.mailbox import AppendMessage, Mailbox
from petiole.workers.channels.terminal import Terminal
from petiole.workers.channels.webhook import Webhook, open_webhook
from petiole.workers.settings import WorkerSettings

__all__ = ["AppendMessage", "DuplicateBehavior", "Mailbox", "OutputChannel", "Terminal", "Webhook", "open_channels"]


def open_channels(append: AppendMessage) -> tuple[OutputChannel, ...]:
    """Open the mailbox, the webhook (PETIOLE_WEBHOOK_URL) and the terminal (PETIOLE_TERMINAL_CHANNEL).

    Raises: UsageError (missing_extra), NotConfigured.
    """
    channels: list[OutputChannel] = [Mailbox(append)]
    if webhook := open_webhook():
        channels.append(webhook)
    if WorkerSettings().terminal_channel:
        channels.append(Terminal())
    return tuple(channels)
