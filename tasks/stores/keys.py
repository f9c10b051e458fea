"""Every key, what it holds and how long it lives, on one page.

| key                              | type   | holds                                          | lives                   |
|----------------------------------|--------|------------------------------------------------|-------------------------|
| {p}:directory                    | hash   | subscription name -> Subscription JSON         | until withdrawn         |
| {p}:directory:version            | number | moves with every change of the directory       | for ever                |
| {p}:history                      | stream | every published event                          | history_length, _age    |
| {p}:history:stream:<stream>      | list   | entry ids of a stream's events, oldest first   | HISTORY_RETENTION_S     |
| {p}:history:flow:<correlation>   | list   | entry ids of a flow's events, oldest first     | HISTORY_RETENTION_S     |
| {p}:published:<event>            | text   | begun or done: how far a publication got       | DEDUPLICATION_WINDOW_S  |
| {p}:inbox:<delivery>             | text   | done: this delivery was handled                | INBOX_RETENTION_S       |
| {p}:attempts:<delivery>          | list   | its runs that failed or are under way          | until settled           |
| {p}:delays                       | zset   | id -> when its time comes, in ms               | until then              |
| {p}:delays:messages              | hash   | id -> queue, list and message                  | until then              |
| {p}:dead_letters                 | hash   | id -> DeadLetter JSON                          | DEAD_LETTER_RETENTION_S |
| {p}:dead_letters:times           | zset   | ids of dead letters, by when they were buried  | as they                 |
| {p}:dead_letters:states          | hash   | id -> pending, replaying, resolved, ...        | as they                 |
| {p}:dead_letters:replays         | hash   | id -> number of its last replay, when, by whom | as they                 |
| {p}:dead_letters:retaining       | text   | who of the workers looks after retention       | a minute                |
| {p}:dead_letters:alarm:<which>   | text   | this alarm was raised                          | a day                   |
| {p}:sessions                     | zset   | session -> last activity in ms; 0: it ended    | until its end is told   |
| {p}:sessions:<stream>            | hash   | type, state, times, participants               | 30 days after last use  |
| {p}:session_events:<stream>      | list   | its last events                                | until it ends           |
| {p}:session_memory:<stream>      | hash   | name -> value as JSON                          | until it ends           |
| {p}:drafts:<stream>              | stream | a stream's answers while they are written      | a day after last        |
| {p}:drafts:<stream>:open         | zset   | answers being written -> vouched for until, ms | a day after last        |
| {p}:drafts:<stream>:of:<answer>  | hash   | attempt, state, token, flow, first and last no.| a day after last        |
| {p}:mailboxes:<mailbox>          | list   | ordered deliveries that wait for their turn    | until they have had it  |
| {p}:mailboxes:<mailbox>:head     | text   | the delivery whose turn it is                  | until it is settled     |
| {p}:mailboxes                    | hash   | queue -> deliveries in its mailboxes           | for ever                |
| {p}:blobs:<sha-256>              | text   | the content of events too large to travel      | 7 days after use        |
| {p}:effects:<function>:<key>     | hash   | begun or done, and the outcome                 | IDEMPOTENCY_RETENTION_S |
| {p}:shadows:<subscription>       | list   | what a shadow would have said, newest first    | HISTORY_RETENTION_S     |
| {p}:requests                     | zset   | ids of requests that are waited for            | until their deadlines   |
| {p}:requests:<id>                | hash   | responder, list of the answer, deadline, token | 60 s after the deadline |
| {p}:requests:<id>:reply          | list   | the answer                                     | until taken, or 120 s   |
| {p}:requests:inbox:<uuid>:reply  | list   | answers to the requests of one asyncio loop    | until taken, or 120 s   |
| {p}:gatherings:<subscription>:<key> | hash | the parts that have come, closed              | DEDUPLICATION_WINDOW_S  |
| {p}:circuits                     | set    | names of what was ever called                  | for ever                |
| {p}:circuits:<name>              | hash   | state, epoch, failures, times of a dependency  | for ever                |
| {p}:circuits:<name>:window       | hash   | calls and failures, by tenths of the window    | twice the window        |
| {p}:budgets:<account>            | hash   | requests and tokens that count, pause          | window and lease, twice |
| {p}:budgets:<account>:times      | zset   | call -> when it is forgotten, in ms            | as that                 |
| {p}:budgets:<account>:tokens     | hash   | call -> its tokens                             | as that                 |
| {p}:counters                     | hash   | name -> count                                  | for ever                |
| {p}:workers                      | zset   | worker -> when it was last heard of, in s      | until it is gone        |
| {p}:workers:facts                | hash   | worker -> node, phase, how it serves agents    | until it is gone        |
| {p}:system                       | hash   | life, state, whether closed                    | for ever                |
| {p}:agents:lives                 | hash   | agent -> life, state                           | while it lives          |
| {p}:agents:marks                 | hash   | agent -> paused or stopped                     | until it is resumed     |
| {p}:agents:state:<agent>         | hash   | name -> value as JSON                          | for ever                |
| {p}:untold                       | list   | steps of lives that were not told yet          | until then              |
| {p}:aborted:<agent>:<flow>       | text   | its deliveries of that flow are not handled    | INBOX_RETENTION_S       |
| {p}:metrics                      | hash   | figures as of the last metrics summary         | for ever                |

{p} is PETIOLE_KEY_PREFIX. Queues and their messages belong to Celery and stand under the agents' names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys under one prefix."""

    prefix: str

    @property
    def directory(self) -> str:
        return f"{self.prefix}:directory"

    @property
    def directory_version(self) -> str:
        return f"{self.prefix}:directory:version"

    @property
    def history(self) -> str:
        return f"{self.prefix}:history"

    def history_of_stream(self, stream_id: str) -> str:
        return f"{self.prefix}:history:stream:{stream_id}"

    def history_of_flow(self, correlation_id: str) -> str:
        return f"{self.prefix}:history:flow:{correlation_id}"

    def published(self, event_id: str) -> str:
        return f"{self.prefix}:published:{event_id}"

    def inbox(self, delivery_id: str) -> str:
        return f"{self.prefix}:inbox:{delivery_id}"

    def attempts(self, delivery_id: str) -> str:
        return f"{self.prefix}:attempts:{delivery_id}"

    @property
    def delays(self) -> str:
        return f"{self.prefix}:delays"

    @property
    def delayed_messages(self) -> str:
        return f"{self.prefix}:delays:messages"

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
    def dead_letter_retaining(self) -> str:
        return f"{self.prefix}:dead_letters:retaining"

    def dead_letter_alarm(self, which: str) -> str:
        return f"{self.prefix}:dead_letters:alarm:{which}"

    @property
    def sessions(self) -> str:
        return f"{self.prefix}:sessions"

    def session(self, stream_id: str) -> str:
        return f"{self.prefix}:sessions:{stream_id}"

    def session_events(self, stream_id: str) -> str:
        return f"{self.prefix}:session_events:{stream_id}"

    def session_memory(self, stream_id: str) -> str:
        return f"{self.prefix}:session_memory:{stream_id}"

    def drafts(self, stream_id: str) -> str:
        return f"{self.prefix}:drafts:{stream_id}"

    def open_drafts(self, stream_id: str) -> str:
        return f"{self.prefix}:drafts:{stream_id}:open"

    def draft(self, stream_id: str, answer_id: str) -> str:
        return f"{self.prefix}:drafts:{stream_id}:of:{answer_id}"

    def mailbox(self, name: str) -> str:
        return f"{self.prefix}:mailboxes:{name}"

    @property
    def mailbox_counts(self) -> str:
        return f"{self.prefix}:mailboxes"

    def blob(self, sha256: str) -> str:
        return f"{self.prefix}:blobs:{sha256}"

    def effect(self, name: str) -> str:
        return f"{self.prefix}:effects:{name}"

    def shadow(self, subscription: str) -> str:
        return f"{self.prefix}:shadows:{subscription}"

    @property
    def requests(self) -> str:
        return f"{self.prefix}:requests"

    def request(self, request_id: str) -> str:
        return f"{self.prefix}:requests:{request_id}"

    def request_reply(self, request_id: str) -> str:
        return f"{self.prefix}:requests:{request_id}:reply"

    def gathering(self, subscription: str, key: str) -> str:
        return f"{self.prefix}:gatherings:{subscription}:{key}"

    @property
    def circuits(self) -> str:
        return f"{self.prefix}:circuits"

    def circuit(self, name: str) -> str:
        return f"{self.prefix}:circuits:{name}"

    def circuit_window(self, name: str) -> str:
        return f"{self.prefix}:circuits:{name}:window"

    def budget(self, account: str) -> str:
        return f"{self.prefix}:budgets:{account}"

    def budget_times(self, account: str) -> str:
        return f"{self.prefix}:budgets:{account}:times"

    def budget_tokens(self, account: str) -> str:
        return f"{self.prefix}:budgets:{account}:tokens"

    @property
    def counters(self) -> str:
        return f"{self.prefix}:counters"

    @property
    def workers(self) -> str:
        return f"{self.prefix}:workers"

    @property
    def worker_facts(self) -> str:
        return f"{self.prefix}:workers:facts"

    @property
    def system(self) -> str:
        return f"{self.prefix}:system"

    @property
    def agent_lives(self) -> str:
        return f"{self.prefix}:agents:lives"

    @property
    def agent_marks(self) -> str:
        return f"{self.prefix}:agents:marks"

    def agent_state(self, agent: str) -> str:
        return f"{self.prefix}:agents:state:{agent}"

    @property
    def untold(self) -> str:
        return f"{self.prefix}:untold"

    def aborted(self, agent: str, correlation_id: str) -> str:
        return f"{self.prefix}:aborted:{agent}:{correlation_id}"

    @property
    def metrics(self) -> str:
        return f"{self.prefix}:metrics"
