"""The keys of the bundled agents' state.

| key                              | type   | holds                                          | lives                   |
|----------------------------------|--------|------------------------------------------------|-------------------------|
| {p}:memories:<stream>:times      | zset   | keys of what was said, by time                 | 30 days after last      |
| {p}:memories:<stream>:texts      | hash   | key -> Recollection JSON                       | as they                 |
| {p}:memories:<stream>:gone       | zset   | keys that clean-ups merged away, by time       | as they                 |
| {p}:memories                     | set    | streams to clean up                            | until then              |
| {p}:facts:<owner>                | hash   | what it is a fact of -> its values, as JSON    | a year after last       |
| {p}:vectors:<model>:<sha-256>    | text   | where a text stands among meanings             | 30 days                 |
| {p}:occurrences:<sha-256>        | zset   | events that are occurrences of it, by time     | window and cooldown     |
| {p}:occurrences:<sha-256>:told   | zset   | those that were told of                        | as they                 |
| {p}:replies:<stream>             | stream | answers, read or not                           | 1 day after last, 1,000 |
| {p}:reply_ids:<stream>           | set    | message ids of answers already put there       | 1 day after last        |
| {p}:replies_taken:<stream>       | text   | the last answer that was taken                 | 1 day after last        |
| {p}:approvals                    | zset   | ids of approvals, by when they were asked for  | IDEMPOTENCY_RETENTION_S |
| {p}:approvals:<id>               | hash   | what is to be granted, and what was decided    | IDEMPOTENCY_RETENTION_S |

{p} is PETIOLE_KEY_PREFIX.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StateKeys:
    """The names of all keys under one prefix."""

    prefix: str

    def memories(self, stream_id: str) -> str:
        return f"{self.prefix}:memories:{stream_id}"

    @property
    def memories_touched(self) -> str:
        return f"{self.prefix}:memories"

    def facts(self, owner: str) -> str:
        return f"{self.prefix}:facts:{owner}"

    def vector(self, model: str, sha256: str) -> str:
        return f"{self.prefix}:vectors:{model}:{sha256}"

    def occurrences(self, sha256: str) -> str:
        return f"{self.prefix}:occurrences:{sha256}"

    def occurrences_told(self, sha256: str) -> str:
        return f"{self.prefix}:occurrences:{sha256}:told"

    def replies(self, stream_id: str) -> str:
        return f"{self.prefix}:replies:{stream_id}"

    def reply_ids(self, stream_id: str) -> str:
        return f"{self.prefix}:reply_ids:{stream_id}"

    def replies_taken(self, stream_id: str) -> str:
        return f"{self.prefix}:replies_taken:{stream_id}"

    @property
    def approvals(self) -> str:
        return f"{self.prefix}:approvals"

    def approval(self, approval_id: str) -> str:
        return f"{self.prefix}:approvals:{approval_id}"
