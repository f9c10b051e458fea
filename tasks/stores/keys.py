"""List every key of the bus in Redis: type, content and retention.

Each starts with PETIOLE_KEY_PREFIX and a colon, then fixed words. Text from outside (a stream, a flow, an account, the
id of a request) stands last, so no text can name another key; of two texts the first is a checked name or is escaped.
The keys of Celery and kombu begin with `Settings.queue_prefix`.

| key                                   | type   | holds                                    | kept                    |
|---------------------------------------|--------|------------------------------------------|-------------------------|
| aborted                               | text   | an agent's flow was aborted              | INBOX_RETENTION_S       |
| aborted:<agent>:<flow>                | text   | the agent's deliveries of the flow end   | INBOX_RETENTION_S       |
| cancelled:<flow>                      | text   | all deliveries of the flow end           | INBOX_RETENTION_S       |
| active_message_groups                 | set    | groups that have a delivery in its queue | until their last ends   |
| agents:state:<agent>                  | hash   | name -> value as JSON                    | no limit                |
| aggregations:<subscription>:<key>     | hash   | the parts received; whether completed    | DEDUPLICATION_WINDOW_S  |
| async_replies:<uuid>                  | list   | replies to requests of one asyncio loop  | until taken, or 120 s   |
| attempts:<delivery>                   | list   | attempts that failed, crashed or run     | until settled           |
| running:<delivery>                    | string | lease of an attempt that runs (RabbitMQ) | until settled, or lost  |
| blobs:<sha-256>                       | text   | content above the claim-check threshold  | 7 days after last use   |
| circuit_windows:<name>                | hash   | calls and failures per tenth of a window | twice the window        |
| circuits                              | set    | names of all dependencies ever called    | no limit                |
| circuits:<name>                       | hash   | state, epoch, failures, times            | no limit                |
| cluster                               | text   | workers, lifecycles, overrides as JSON   | no limit                |
| cluster:heartbeats:<worker>           | text   | its node; gone when it is silent         | HEARTBEAT_TIMEOUT_S     |
| cluster:version                       | text   | another one with every change            | no limit                |
| consumers                             | zset   | consumer -> last heartbeat, in s         | until stopped or lost   |
| consumers:<consumer>                  | hash   | delivery tag -> list and entry           | until settled           |
| consumers:<consumer>:slots            | hash   | slot -> last tag and answer; begun tags  | until stopped or lost   |
| consumers:<consumer>:wakeup           | zset   | ends its wait for a delivery             | until it closes         |
| counters                              | hash   | name -> count                            | no limit                |
| dead_letters                          | hash   | id -> DeadLetter JSON                    | DEAD_LETTER_RETENTION_S |
| dead_letters:alarm:<alarm>            | text   | this alarm was raised                    | a day                   |
| dead_letters:replays                  | hash   | id -> last replay: number, ms, operator  | as dead_letters         |
| dead_letters:retention_lock           | text   | the worker that applies retention        | a minute                |
| dead_letters:states                   | hash   | id -> pending, replaying, resolved, ...  | as dead_letters         |
| dead_letters:times                    | zset   | id -> when it was dead-lettered, in ms   | as dead_letters         |
| delivery_waits:<delivery>             | list   | its last 20 waits for another attempt    | HISTORY_RETENTION_S     |
| delayed                               | zset   | id -> due time in ms                     | until due               |
| delayed:messages                      | hash   | id -> queue, list and message            | until due               |
| directory                             | hash   | subscription -> JSON; empty: withdrawn   | no limit                |
| directory:announced                   | hash   | subscription -> since when, in ms        | no limit                |
| directory:changes                     | list   | the last 1,000 changes, oldest first     | no limit                |
| directory:version                     | number | grows with every change                  | no limit                |
| event_counts                          | hash   | amounts, by their EventCount             | no limit                |
| event_counts:models                   | set    | models with counts of their own          | no limit                |
| event_counts:subscriptions            | set    | subscriptions with counts of their own   | no limit                |
| event_counts:types                    | set    | event types with counts of their own     | no limit                |
| history                               | stream | the last MAX_HISTORY_EVENTS events       | HISTORY_RETENTION_S     |
| history:blocks                        | list   | block/first entry id, oldest first       | as the history          |
| history:count                         | number | events ever recorded                     | no limit                |
| history:flows:<n>                     | list   | digest of a flow, entry id; 1024 lists   | as the history          |
| history:kept                          | hash   | old block -> first entry/next block's    | while it is referred to |
| history:references                    | hash   | block -> queued deliveries of its events | until they end          |
| history:streams:<n>                   | list   | digest of a stream, entry id             | as the history          |
| idempotency:<function>:<key>          | hash   | an operation's owner, start and outcome  | IDEMPOTENCY_RETENTION_S |
| inbox:<delivery>                      | text   | done: handled; of messages, not entries  | INBOX_RETENTION_S       |
| message_groups                        | hash   | queue -> deliveries in its groups        | no limit                |
| message_groups:<group>                | list   | ordered deliveries that wait             | until sent              |
| metrics                               | hash   | counters as of the last summary          | no limit                |
| open_response_streams:<stream>        | zset   | open response -> end of its lease, in ms | a day after the last    |
| parked                                | hash   | need -> why and when deliveries parked   | until released          |
| parked:<need>:<step>                  | list   | deliveries that wait for a newer worker  | until released          |
| parked:<need>:wakeup                  | zset   | wakes a consumer that waits              | until fetched           |
| publications:<event>                  | text   | started or done; other brokers only      | DEDUPLICATION_WINDOW_S  |
| published:<window>                    | set    | ids of the events published then         | two windows             |
| queues:<queue>:<step>                 | list   | deliveries, for each priority step       | until fetched           |
| queues:<queue>:wakeup                 | zset   | wakes a consumer that waits              | until fetched           |
| rate_limit_accounts                   | zset   | the 200 accounts used last -> when, ms   | no limit                |
| rate_limit_times:<account>            | zset   | call -> when it stops counting, in ms    | twice window plus lease |
| rate_limit_tokens:<account>           | hash   | call -> its tokens                       | twice window plus lease |
| rate_limits:<account>                 | hash   | requests and tokens counted, its agents  | twice window plus lease |
| request_replies:<id>                  | list   | the reply                                | until taken, or 120 s   |
| requests                              | zset   | id -> deadline of a pending request, ms  | until the deadline      |
| requests:<id>                         | hash   | responder, reply list, deadline, token   | 60 s after the deadline |
| response_states:<stream>:<answer>     | hash   | attempt, state, token, flow, first, last | a day after the last    |
| response_streams:<stream>             | stream | chunks of a stream's responses           | a day after the last    |
| session_events:<stream>               | list   | a session's last events                  | until it ends           |
| session_memory:<stream>               | hash   | name -> value as JSON                    | until it ends           |
| sessions                              | zset   | session -> last activity, ms; 0: ended   | until end is published  |
| sessions:<stream>                     | hash   | type, state, times, participants         | 30 days after last use  |
| shadows:<subscription>                | list   | captured shadow events, newest first     | HISTORY_RETENTION_S     |
| undecodable                           | list   | invalid messages with their queue        | until dead-lettered     |
"""

from __future__ import annotations

from dataclasses import dataclass


def escape_separator(text: str) -> str:
    """Escape the colons of a text that another text follows."""
    return text.replace("%", "%25").replace(":", "%3A")


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys under one prefix."""

    prefix: str

    @property
    def directory(self) -> str:
        return f"{self.prefix}:directory"

    @property
    def directory_announced(self) -> str:
        return f"{self.prefix}:directory:announced"

    @property
    def directory_changes(self) -> str:
        return f"{self.prefix}:directory:changes"

    @property
    def directory_version(self) -> str:
        return f"{self.prefix}:directory:version"

    @property
    def history(self) -> str:
        return f"{self.prefix}:history"

    def history_of_stream(self, bucket: int) -> str:
        return f"{self.prefix}:history:streams:{bucket}"

    def history_of_flow(self, bucket: int) -> str:
        return f"{self.prefix}:history:flows:{bucket}"

    def queue(self, queue: str) -> str:
        return f"{self.prefix}:queues:{queue}"

    @property
    def consumers(self) -> str:
        return f"{self.prefix}:consumers"

    def consumer(self, consumer_id: str) -> str:
        return f"{self.prefix}:consumers:{consumer_id}"

    def consumer_slots(self, consumer_id: str) -> str:
        return f"{self.prefix}:consumers:{consumer_id}:slots"

    def consumer_wakeup(self, consumer_id: str) -> str:
        return f"{self.prefix}:consumers:{consumer_id}:wakeup"

    @property
    def any_aborted(self) -> str:
        return f"{self.prefix}:aborted"

    @property
    def undecodable(self) -> str:
        return f"{self.prefix}:undecodable"

    @property
    def parked(self) -> str:
        return f"{self.prefix}:parked"

    def publication(self, event_id: str) -> str:
        return f"{self.prefix}:publications:{event_id}"

    def inbox(self, delivery_id: str) -> str:
        return f"{self.prefix}:inbox:{delivery_id}"

    def attempts(self, delivery_id: str) -> str:
        return f"{self.prefix}:attempts:{delivery_id}"

    def running(self, delivery_id: str) -> str:
        return f"{self.prefix}:running:{delivery_id}"

    def delivery_waits(self, delivery_id: str) -> str:
        return f"{self.prefix}:delivery_waits:{delivery_id}"

    @property
    def delayed(self) -> str:
        return f"{self.prefix}:delayed"

    @property
    def delayed_messages(self) -> str:
        return f"{self.prefix}:delayed:messages"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}:dead_letters"

    @property
    def dead_letter_times(self) -> str:
        return f"{self.prefix}:dead_letters:times"

    @property
    def dead_letter_states(self) -> str:
        return f"{self.prefix}:dead_letters:states"

    @property
    def dead_letter_replays(self) -> str:
        return f"{self.prefix}:dead_letters:replays"

    @property
    def dead_letter_retention_lock(self) -> str:
        return f"{self.prefix}:dead_letters:retention_lock"

    def dead_letter_alarm(self, alarm: str) -> str:
        return f"{self.prefix}:dead_letters:alarm:{alarm}"

    @property
    def sessions(self) -> str:
        return f"{self.prefix}:sessions"

    def session(self, stream_id: str) -> str:
        return f"{self.prefix}:sessions:{stream_id}"

    def session_events(self, stream_id: str) -> str:
        return f"{self.prefix}:session_events:{stream_id}"

    def session_memory(self, stream_id: str) -> str:
        return f"{self.prefix}:session_memory:{stream_id}"

    def response_stream(self, stream_id: str) -> str:
        return f"{self.prefix}:response_streams:{stream_id}"

    def open_response_streams(self, stream_id: str) -> str:
        return f"{self.prefix}:open_response_streams:{stream_id}"

    def response_stream_state(self, stream_id: str, answer_id: str) -> str:
        return f"{self.prefix}:response_states:{escape_separator(stream_id)}:{answer_id}"

    def message_group(self, name: str) -> str:
        return f"{self.prefix}:message_groups:{name}"

    @property
    def active_message_groups(self) -> str:
        return f"{self.prefix}:active_message_groups"

    @property
    def message_group_counts(self) -> str:
        return f"{self.prefix}:message_groups"

    def blob(self, sha256: str) -> str:
        return f"{self.prefix}:blobs:{sha256}"

    def idempotency_record(self, name: str) -> str:
        return f"{self.prefix}:idempotency:{name}"

    def shadow(self, subscription: str) -> str:
        return f"{self.prefix}:shadows:{subscription}"

    @property
    def requests(self) -> str:
        return f"{self.prefix}:requests"

    def request(self, request_id: str) -> str:
        return f"{self.prefix}:requests:{request_id}"

    def request_reply(self, request_id: str) -> str:
        return f"{self.prefix}:request_replies:{request_id}"

    def async_replies(self, reader_id: str) -> str:
        return f"{self.prefix}:async_replies:{reader_id}"

    def aggregation(self, subscription: str, key: str) -> str:
        return f"{self.prefix}:aggregations:{subscription}:{key}"

    @property
    def circuits(self) -> str:
        return f"{self.prefix}:circuits"

    def circuit(self, name: str) -> str:
        return f"{self.prefix}:circuits:{name}"

    def circuit_window(self, name: str) -> str:
        return f"{self.prefix}:circuit_windows:{name}"

    def rate_limit(self, account: str) -> str:
        return f"{self.prefix}:rate_limits:{account}"

    @property
    def rate_limit_accounts(self) -> str:
        return f"{self.prefix}:rate_limit_accounts"

    def rate_limit_times(self, account: str) -> str:
        return f"{self.prefix}:rate_limit_times:{account}"

    def rate_limit_tokens(self, account: str) -> str:
        return f"{self.prefix}:rate_limit_tokens:{account}"

    @property
    def counters(self) -> str:
        return f"{self.prefix}:counters"

    @property
    def event_counts(self) -> str:
        return f"{self.prefix}:event_counts"

    @property
    def cluster(self) -> str:
        return f"{self.prefix}:cluster"

    @property
    def cluster_version(self) -> str:
        return f"{self.prefix}:cluster:version"

    @property
    def schema_fingerprints(self) -> str:
        return f"{self.prefix}:cluster:schemas"

    def heartbeat(self, worker_id: str) -> str:
        return f"{self.prefix}:cluster:heartbeats:{worker_id}"

    def agent_state(self, agent: str) -> str:
        return f"{self.prefix}:agents:state:{agent}"

    def aborted(self, agent: str, correlation_id: str) -> str:
        return f"{self.prefix}:aborted:{agent}:{correlation_id}"

    def cancelled(self, correlation_id: str) -> str:
        return f"{self.prefix}:cancelled:{correlation_id}"

    @property
    def metrics_summary(self) -> str:
        return f"{self.prefix}:metrics"
