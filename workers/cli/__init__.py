"""The command line, one file per command. `petiole …` and `celery -A workers petiole …` run the same commands.

To add a command, add a file that defines a click command named `command`. The command has the file's name, with `-` for
`_`. `petiole --help` shows the first line of the file's docstring. Files whose names begin with `_` are shared by
several commands.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import io
import logging
import pkgutil
import sys
from pathlib import Path
from typing import Any

import click

from petiole.workers.observability.printable import printable_lines

__all__ = ["petiole"]

_COMMANDS_DIRECTORY = Path(__file__).parent


class Commands(click.Group):
    """The files of this folder as commands. A file is imported only when its command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        files = [module.name for module in pkgutil.iter_modules([str(_COMMANDS_DIRECTORY)])]
        return sorted(name.replace("_", "-") for name in files if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{_command_file(cmd_name)}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            if not _is_utf8(argument):
                raise click.UsageError(f"the argument {argument!r} is not UTF-8 text; correct it", ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            nearest = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not nearest:
                raise
            raise click.UsageError(f"{error.message} Did you mean {nearest[0]!r}?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read the output has ended; click ends quietly
            raise
        except click.UsageError:
            raise  # it shows only what was typed
        except click.ClickException as error:
            raise click.ClickException(printable_lines(error.format_message())) from error
        except _expected_errors() as error:
            raise click.ClickException(printable_lines(_error_text(error))) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="petiole", prog_name="petiole")
def petiole() -> None:
    """The event backbone for AI agents, on Celery.

    Begin with: petiole demo
    """
    for stream in (sys.stdout, sys.stderr):
        # An event's text may contain characters outside the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from petiole.workers.settings import unknown_settings  # noqa: PLC0415 - slow to import, and --help does not need it

    own_log = logging.getLogger("petiole")  # not the root: Celery's errors are told in the command's own words
    if not own_log.hasHandlers():
        own_log.addHandler(_CommandLog())
    for warning in unknown_settings():
        click.echo(f"warning: {warning}", err=True)


class _CommandLog(logging.StreamHandler[Any]):
    """Writes warnings and errors of a command to standard error, in the format of workers."""

    def format(self, record: logging.LogRecord) -> str:
        if self.formatter is None:
            # Slow to import, and most commands log nothing.
            from petiole.tasks.bus import default_bus  # noqa: PLC0415
            from petiole.workers.observability.logging import build_formatter  # noqa: PLC0415
            from petiole.workers.settings import WorkerSettings  # noqa: PLC0415

            self.setFormatter(build_formatter(WorkerSettings().log_format, redactor=default_bus.redactor))
        return super().format(record)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _command_file(command: str) -> str:
    return command.replace("-", "_")


def _summary(name: str) -> str:
    """Read a command's summary from its file. Importing the file would take a second per command."""
    package = _COMMANDS_DIRECTORY / _command_file(name)
    file = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0].rstrip(".")


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that are shown as one line without a traceback. Called only after an error."""
    from kombu.exceptions import OperationalError  # noqa: PLC0415 - slow to import, and rarely needed
    from redis.exceptions import RedisError  # noqa: PLC0415 - as above

    from petiole.events.errors import PetioleError  # noqa: PLC0415 - as above

    return (PetioleError, RedisError, OperationalError, OSError)


def _error_text(error: Exception) -> str:
    from redis.exceptions import RedisError  # noqa: PLC0415 - as above

    from petiole.events.errors import PetioleError  # noqa: PLC0415 - as above
    from petiole.tasks.bus import default_bus  # noqa: PLC0415 - as above

    if isinstance(error, PetioleError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return (
            f"cannot use {error.filename or 'the output'}: {error.strerror or error}; free its disk or make it usable"
        )
    if isinstance(error, RedisError) and default_bus.has_own_state_store:
        return f"the state store could not be reached: {error}; start it or check PETIOLE_STATE_URL"
    return f"the broker could not be reached: {error}; start it (petiole up) or check PETIOLE_BROKER_URL"
