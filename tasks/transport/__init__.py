"""Our kombu transport for Redis and Valkey. It uses stock Celery and kombu's keys, and loses no messages.

    petiole+redis://  petiole+rediss://  petiole+socket://  petiole+sentinel://

Importing this package registers these URLs with kombu.

The transport is a small subclass of kombu's own. It changes what was measured to lose messages or to cost time:

- *One Lua call moves a message and records it* (`scripts/fetch.lua`). Kombu pops a message and records it in a second
  round trip; a worker that is killed between the two loses it (7 of 20,000 messages in 20 kills).
- *One Lua call sends pending acknowledgements and fetches many messages.* Kombu needs three round trips per message,
  which is two thirds of a busy worker's time. A fetch asks for as many messages as the prefetch limit allows. They are
  handed over in slices of 10 ms, so that acks and remote control are not delayed. An ack waits 20 ms at most, or as
  long as a handler blocks the event loop.
- *A fetch checks for duplicates, and an ack records that a delivery was handled.* If the state store is on the same
  server, this saves two round trips per delivery: `delivery_log.py`, `tasks/settlement/deduplication.py`.
- *Idle consumers block on a wake-up key, not on the queue.* A blocking pop of the queue would lose messages as above.
  The script that puts a message also adds to `<queue><sep>wakeup`, at no extra round trip. Stock publishers do not, so
  a consumer also looks once a second, and 20 times a second while messages arrive without a wake-up.
- *One Redis client per channel.* Kombu creates one per command, at 60 to 90 us each.
- *A lost connection raises ConnectionError*, from which Celery recovers. Kombu rebuilds a pool from the lost connection
  and fails with an AttributeError.
- *Unacknowledged messages are requeued by compare and move*, up to 500 per sweep, by the server's clock. Kombu watches
  the whole hash and starts over after any write to it, under a lock that a killed worker leaves for five minutes.
- *Each message is leased to a consumer, which sends a heartbeat twice a second.* A crashed worker's messages are
  requeued two to three seconds after its last heartbeat. A long handler keeps its lease, because it is renewed. An ack
  of a message that is leased to another consumer has no effect. See `leases.py`, `tasks/consuming/maintenance.py`.
- *Invalid messages are moved to `unacked<sep>undecodable`.* They make kombu's worker exit.

The keys and their contents are kombu's, so stock clients and workers share queues with ours, and a cluster can migrate
one process at a time. Two keys are added: `unacked<sep>held`, a hash from delivery tag to consumer id, and
`unacked<sep>holders`, a sorted set of consumer ids by their last heartbeat. Fanout, remote control, events, bindings,
TLS, Sentinel and all options are inherited from kombu. `kombu_compat.py` lists the private names of kombu that are
used, and checks them before a connection is made.

    address.py         our URLs, and kombu's URLs for them
    transport.py       Transport and Poller: the part that the event loop calls
    channel.py         Channel: put, fetch, hand over, acknowledge
    leases.py          Leases: renew leases, and find expired ones
    requeue.py         move messages back to their queues
    quarantine.py      invalid messages
    consumer_id.py     the consumer's id, its keys and message headers
    delivery_log.py    where a fetch records a delivery, and an ack that it was handled
    qos.py             QoS: messages that are not acknowledged yet
    commands.py        the Lua scripts as functions
    message.py         messages with invalid fields
    kombu_compat.py    the names that kombu must have
"""

from __future__ import annotations

from petiole.tasks.transport.address import register_transport, with_transport_prefix, without_transport_prefix

__all__ = ["register_transport", "with_transport_prefix", "without_transport_prefix"]

register_transport()
