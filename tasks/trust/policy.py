"""Policy: rules that say who may publish and who may hear which topics, read from a TOML file once per process.

    [groups]
    shop = ["checkout", "billing"]

    [[publish]]                                the first rule that matches an event decides
    topics = ["message.order.*"]
    publishers = ["@shop"]                     names, `@group`, or "*": everybody
    signed = true                              refused without a signature
    # severity = "critical"                    only errors of this severity

    [[hear]]                                   of all rules that a subscription touches, each must list its agent
    topics = ["message.order.*"]
    agents = ["@shop"]

The rules of the file come before those of default.toml. What no rule names is open to everybody.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from petiole.events.errors import Severity, UsageError
from petiole.events.event import Event
from petiole.events.topics import ERROR_FAMILY, check_pattern, list_matching_patterns

BACKBONE = "petiole"
"""The publisher of what the backbone itself says, such as lifecycle events. It may publish everything."""

OPERATOR = "operator"
"""The publisher of what an operator edits."""

DEFAULT = "default"
OFF = "none"

EVERYBODY = "*"
_DEFAULT_FILE = Path(__file__).with_name("default.toml")
_VARIABLE = "PETIOLE_POLICY"

Names = Annotated[tuple[Annotated[str, Field(pattern=r"^(\*|@?[a-z0-9][a-z0-9_.-]{0,99})$")], ...], Field(min_length=1)]
Topics = Annotated[tuple[Annotated[str, AfterValidator(check_pattern)], ...], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishRule(_Table):
    """Who may publish events of these topics, and whether they must be signed."""

    topics: Topics
    publishers: Names
    severity: Severity | None = None
    signed: bool = False


class HearRule(_Table):
    """Which agents may subscribe to these topics."""

    topics: Topics
    agents: Names


class Policy(_Table):
    """The rules of a file."""

    groups: Mapping[str, Names] = Field(default_factory=dict)
    publish: tuple[PublishRule, ...] = ()
    hear: tuple[HearRule, ...] = ()

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        listed = [*(rule.publishers for rule in self.publish), *(rule.agents for rule in self.hear)]
        for name in (name for names in listed for name in names if name.startswith("@")):
            if name[1:] not in self.groups and name != "@ours":
                raise ValueError(f"the group {name!r} is not defined; add it to [groups]")
        return self

    def followed_by(self, other: Policy) -> Policy:
        """Return the rules of this policy, and then those of another. This one's groups replace those of that name."""
        groups = {**other.groups, **self.groups}
        return Policy(groups=groups, publish=(*self.publish, *other.publish), hear=(*self.hear, *other.hear))

    def publish_rules(self, topic: str) -> tuple[PublishRule, ...]:
        """List the rules whose topics match; the first that also matches the event's severity decides."""
        patterns = set(list_matching_patterns(topic))
        return tuple(rule for rule in self.publish if not patterns.isdisjoint(rule.topics))

    def may_hear(self, agent: str, pattern: str) -> HearRule | None:
        """Return the rule that keeps an agent from subscribing to a pattern; None if none does."""
        for rule in self.hear:
            if any(_overlap(pattern, topic) for topic in rule.topics) and not self.lists(rule.agents, agent):
                return rule
        return None

    def lists(self, names: Iterable[str], name: str) -> bool:
        """Return whether a rule lists a name, itself or in a group."""
        return any(
            listed in (name, EVERYBODY) or (listed.startswith("@") and name in self.groups.get(listed[1:], ()))
            for listed in names
        )


def deciding_rule(rules: Sequence[PublishRule], event: Event) -> PublishRule | None:
    """Return the first rule that matches an event, of those that match its topic."""
    severity = getattr(event.content, "severity", None)
    return next((rule for rule in rules if rule.severity in (None, severity)), None)


def load_policy(setting: str) -> Policy | None:
    """Load the policy that PETIOLE_POLICY names; None if it is `none`. Raises UsageError (invalid_policy)."""
    if setting == OFF:
        return None
    default = parse_policy(_DEFAULT_FILE.read_text(encoding="utf-8"), _DEFAULT_FILE)
    if setting == DEFAULT:
        return default
    path = Path(setting)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _invalid(f"{path} cannot be read: {error}") from error
    return parse_policy(text, path).followed_by(default)


def parse_policy(text: str, path: Path) -> Policy:
    """Parse the text of a policy's file. Raises UsageError (invalid_policy) with the line and the reason."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise _invalid(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"])) or "the file"
        reason = problem["msg"].removeprefix("Value error, ")
        line = _line_of(text, problem["loc"]) if problem["loc"] else _line_with(text, reason)
        raise _invalid(f"{path}, line {line}: {field}: {reason}") from error


def _invalid(problem: str) -> UsageError:
    remedy = f"correct it, or set {_VARIABLE}={DEFAULT}"
    return UsageError(f"the policy ({_VARIABLE}) is invalid: {problem}; {remedy}", code="invalid_policy")


def _line_of(text: str, location: Sequence[str | int]) -> int:
    """Find the line of a value: of its key below the n-th header of its table, else of that header."""
    table, rest = re.escape(str(location[0])), location[1:]
    number = next((part for part in rest[:1] if isinstance(part, int)), 0)
    key = next((part for part in rest if isinstance(part, str)), "")
    lines = text.splitlines()
    header = re.compile(rf"\s*\[+\s*{table}\s*\]+")
    headers = [at for at, line in enumerate(lines) if header.match(line)]
    start = headers[number] if number < len(headers) else 0
    for at in range(start + bool(headers), len(lines)):
        if re.match(r"\s*\[\[?\w", lines[at]):
            break
        if key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", lines[at]):
            return at + 1
    top_level = (at for at, line in enumerate(lines) if re.match(rf"\s*{table}\s*=", line))
    return (start if headers else next(top_level, 0)) + 1


def _line_with(text: str, reason: str) -> int:
    """Find the line that has the name that a reason quotes."""
    name = reason.partition("'")[2].partition("'")[0]
    return text[: text.find(name)].count("\n") + 1


def _overlap(first: str, second: str) -> bool:
    """Return whether a topic can match both patterns."""
    if ERROR_FAMILY in (first.partition(".")[0], second.partition(".")[0]) and "*" in (first[0], second[0]):
        return False
    return _words_overlap(first.split("."), second.split("."))


def _words_overlap(first: Sequence[str], second: Sequence[str]) -> bool:
    if not first or not second:
        return not first and not second
    if list(first) == ["*"] or list(second) == ["*"]:
        return True
    is_same = first[0] == second[0] or "*" in (first[0], second[0])
    return is_same and _words_overlap(first[1:], second[1:])
