"""List every key of the bundled agents' state in Redis: type, content and retention.

Each starts with PETIOLE_KEY_PREFIX and a colon, then fixed words; text from outside stands last or is hashed.

| key                               | type   | holds                                         | kept                   |
|-----------------------------------|--------|-----------------------------------------------|------------------------|
| approvals                         | zset   | id -> when it was requested, in ms            | as approvals:<id>      |
| approvals:<id>                    | hash   | request, expiry, state, decision              | see open_team_state()  |
| audio_ends:<stream>               | text   | sequence number of the chunk with `is_last`   | a day                  |
| audio_samples:<stream>            | text   | PCM of the utterance, or of the last moments  | a day after the last   |
| audio_sequences:<stream>          | text   | the number of chunks numbered for senders     | a day after the last   |
| audio_streams:<stream>            | hash   | revision, AudioState JSON, speech so far      | a day after the last   |
| consolidation_queue               | set    | streams with new memories                     | until consolidated     |
| event_counts:<sha-256>            | zset   | event -> its time in s                        | window plus cooldown   |
| event_reports:<sha-256>           | zset   | events that reported the threshold            | window plus cooldown   |
| fact_removals:<owner>             | hash   | key of a fact, or '' -> when forgotten, in s  | a year after the last  |
| facts:<owner>                     | hash   | key of a fact -> its values as JSON           | a year after the last  |
| memory_removals:<stream>          | zset   | key -> time of a consolidated memory          | 30 days after the last |
| memory_texts:<stream>             | hash   | key -> MemoryItem JSON                        | 30 days after the last |
| memory_times:<stream>             | zset   | key -> when it was said, in s                 | 30 days after the last |
| outbound_message_cursors:<stream> | text   | entry id of the last message taken            | a day after the last   |
| outbound_message_ids:<stream>     | set    | ids of the messages appended                  | a day after the last   |
| outbound_messages:<stream>        | stream | messages to the user, the last 1,000          | a day after the last   |
| push_configurations:<task>        | hash   | id -> where to post, as JSON                  | HISTORY_RETENTION_S    |
| push_notified:<task>              | hash   | id -> the state that was posted last          | HISTORY_RETENTION_S    |
| scenes:<stream>                   | text   | the first frame of the scene: Scene JSON      | an hour                |
| spending:<sha-256>:<window>       | text   | millionths of a dollar                        | two windows            |
| stream_owners:<stream>            | text   | the user who began it through a gateway       | 30 days after the last |
| user_streams:<user>               | set    | streams with memories of the user             | 30 days after the last |
| vectors:<sha-256>:<model>         | text   | embedding of a text: float32 as base64        | 30 days                |
| video_sequences:<stream>          | text   | the number of frames numbered for senders     | 2 hours after the last |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StateKeys:
    """The names of all keys under one prefix."""

    prefix: str

    def memory_times(self, stream_id: str) -> str:
        return f"{self.prefix}:memory_times:{stream_id}"

    def memory_texts(self, stream_id: str) -> str:
        return f"{self.prefix}:memory_texts:{stream_id}"

    def memory_removals(self, stream_id: str) -> str:
        return f"{self.prefix}:memory_removals:{stream_id}"

    def stream_owner(self, stream_id: str) -> str:
        return f"{self.prefix}:stream_owners:{stream_id}"

    def audio_end(self, stream_id: str) -> str:
        return f"{self.prefix}:audio_ends:{stream_id}"

    def audio_samples(self, stream_id: str) -> str:
        return f"{self.prefix}:audio_samples:{stream_id}"

    def audio_sequence(self, stream_id: str) -> str:
        return f"{self.prefix}:audio_sequences:{stream_id}"

    def audio_stream(self, stream_id: str) -> str:
        return f"{self.prefix}:audio_streams:{stream_id}"

    def video_sequence(self, stream_id: str) -> str:
        return f"{self.prefix}:video_sequences:{stream_id}"

    def scene(self, stream_id: str) -> str:
        return f"{self.prefix}:scenes:{stream_id}"

    @property
    def memories_to_consolidate(self) -> str:
        return f"{self.prefix}:consolidation_queue"

    def facts(self, owner: str) -> str:
        return f"{self.prefix}:facts:{owner}"

    def fact_removals(self, owner: str) -> str:
        return f"{self.prefix}:fact_removals:{owner}"

    def user_streams(self, user_id: str) -> str:
        return f"{self.prefix}:user_streams:{user_id}"

    def vector(self, model: str, sha256: str) -> str:
        return f"{self.prefix}:vectors:{sha256}:{model}"

    def spending(self, sha256: str, window: int) -> str:
        return f"{self.prefix}:spending:{sha256}:{window}"

    def event_counts(self, sha256: str) -> str:
        return f"{self.prefix}:event_counts:{sha256}"

    def event_counts_reported(self, sha256: str) -> str:
        return f"{self.prefix}:event_reports:{sha256}"

    def outbound_messages(self, stream_id: str) -> str:
        return f"{self.prefix}:outbound_messages:{stream_id}"

    def outbound_message_ids(self, stream_id: str) -> str:
        return f"{self.prefix}:outbound_message_ids:{stream_id}"

    def outbound_message_cursor(self, stream_id: str) -> str:
        return f"{self.prefix}:outbound_message_cursors:{stream_id}"

    @property
    def approvals(self) -> str:
        return f"{self.prefix}:approvals"

    def approval(self, approval_id: str) -> str:
        return f"{self.prefix}:approvals:{approval_id}"

    def push_configurations(self, task_id: str) -> str:
        return f"{self.prefix}:push_configurations:{task_id}"

    def push_notified(self, task_id: str) -> str:
        return f"{self.prefix}:push_notified:{task_id}"
