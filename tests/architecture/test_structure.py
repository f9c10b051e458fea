"""The layout: broad `except` clauses, the size of functions, the top of tasks/, one meaning for each public name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for folder in ("events", "tasks", "workers")
    for path in sorted((ROOT / folder).rglob("*.py"))
}

BROAD_EXCEPTS = {
    "events/redaction.py": "the hook is a stranger's; a text must not be kept because it failed",
    "events/texts.py": "an error's `__str__` may raise anything; the text says so",
    "events/upcasting.py": "an upcaster may raise anything; the error becomes that of an invalid event",
    "tasks/consuming/consumer.py": "a message may make Celery raise anything; the message becomes a dead letter",
    "tasks/consuming/direct.py": "a handler may raise anything; it has been settled, and Celery logs it",
    "tasks/consuming/maintenance.py": "a periodic job that fails is reported, and the worker continues",
    "tasks/consuming/request.py": "a failure to store an outcome is reported, and the broker keeps the message",
    "tasks/delivery.py": "a handler may raise anything; settlement decides what follows",
    "tasks/handling/invocation.py": "a handler may end in any way; what is no error becomes one",
    "tasks/instrumentation/__init__.py": "a listener that fails is logged, and changes no outcome",
    "tasks/instrumentation/event_counter.py": "counts that cannot be written are kept, and the thread goes on",
    "tasks/instrumentation/spans.py": "the span is marked with the error, which is raised again",
    "tasks/patterns/idempotency.py": "the idempotency record is released, and the error is raised again",
    "tasks/requests/requester.py": "the pending request is cancelled, and the error is raised again",
    "tasks/resilience/guarded.py": "the circuit breaker records the failure, and the error is raised again",
    "tasks/settlement/delivery_span.py": "the span is marked with the error, which is raised again",
    "tasks/settlement/exits.py": "an error that cannot be read is replaced by one with its name",
    "tasks/settlement/failures.py": "what cannot be stored of a failure is reported; a bare letter is stored, or none",
    "workers/agents/llm.py": "a model may raise anything; the error becomes a failed response and an apology",
    "workers/observability/readiness.py": "every error of a server is a reason why it is not ready",
    "workers/process/model_server.py": "a model may raise anything; its log tells it, and the client is disconnected",
    "workers/tools/mcp/connection.py": "a foreign server may raise anything; the error becomes the tool's",
    "workers/tools/registry.py": "a source of tools may raise anything; the error becomes an unavailable source",
    "workers/tools/tool.py": "a tool may raise anything; the error becomes a failed tool call",
}
"""The files that may catch every exception, each with its reason."""

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_FUNCTION_LINES = 40
MAX_MODULES_IN_TASKS = 12


def test_every_exception_is_caught_only_where_the_list_says_why():
    catching = {
        path
        for path, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and catches_everything(node)
    }

    assert catching == set(BROAD_EXCEPTS)


def test_no_function_has_more_than_forty_lines_without_its_docstring():
    long_functions = [
        f"{path}: {node.name} has {lines} lines"
        for path, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION) and (lines := count_lines(node)) > MAX_FUNCTION_LINES
    ]

    assert long_functions == []


def test_the_top_of_tasks_has_at_most_twelve_modules():
    modules = [path.name for path in (ROOT / "tasks").glob("*.py")]

    assert len(modules) <= MAX_MODULES_IN_TASKS, modules


def test_no_public_class_or_function_name_is_defined_in_two_modules():
    modules_by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in CODE.items():
        for name in public_definitions(tree):
            modules_by_name[name].append(path)

    assert {name: modules for name, modules in modules_by_name.items() if len(modules) > 1} == {}


def catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(error is None or ast.unparse(error) in {"Exception", "BaseException"} for error in caught)


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def public_definitions(tree: ast.Module) -> Iterator[str]:
    """Yield the public classes and functions of a module, except commands, and the `routes` that each gateway has."""
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not (
            node.name.startswith("_") or node.name == "routes" or is_command(node)
        ):
            yield node.name


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    decorators = {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}
    return bool(decorators & {"click.command", "click.group", "command.command"})
