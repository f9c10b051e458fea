"""Our kombu transport for Redis and Valkey. It serves stock Celery too, and loses no deliveries.

    petiole+redis://  petiole+rediss://  petiole+socket://  petiole+sentinel://

Importing this package registers these URLs with kombu.

The transport is a small subclass of kombu's own. It changes what was measured to lose messages or to cost time:

- *One Lua call moves a delivery and leases it* (`scripts/fetch.lua`), from queue entries (tasks/stores/deliveries.py)
  and from kombu's lists of messages. Kombu pops a message and records it in a second round trip; a worker that is
  killed between the two loses it.
- *One Lua call sends pending acknowledgements and fetches many deliveries*, as many as the prefetch limit allows. They
  are handed over in slices of 10 ms, so that acks and remote control are not delayed.
- *What was fetched stands in one hash of its consumer.* Removing the delivery tag is the check of each outcome. A
  consumer sends a heartbeat every second; see `leases.py`.
- *Idle consumers block on a wake-up key, not on the queue.* A blocking pop of the queue would lose messages. The script
  that puts the first delivery into an empty list also adds to `queues:<queue>:wakeup`. Stock publishers do not, so a
  consumer also looks once a second, and 20 times a second while messages arrive without a wake-up.
- *One Redis client per channel*, whose connections have the name of the process.
- *A lost connection raises ConnectionError*, from which Celery recovers; what slots run stays leased.
- *Invalid messages are moved to the quarantine.* They make kombu's worker exit.

Fanout, remote control, events, bindings, TLS, Sentinel and all options are inherited from kombu. `kombu_compat.py`
lists the private names of kombu that are used, and checks them before a connection is made.

    address.py         checks all addresses; our URLs, and kombu's URLs for them
    transport.py       Transport and Poller: the part that the event loop calls
    channel.py         Channel: put, fetch, hand over, acknowledge, return
    leases.py          Leases: heartbeats, and the deliveries of lost consumers
    ack_sender.py      acknowledgements while a handler blocks the event loop
    quarantine.py      invalid messages
    consumer_id.py     the consumer's id, and the name of the process's connections
    client.py          the channel's client
    qos.py             QoS: deliveries that are not acknowledged yet
    commands.py        the Lua scripts as functions
    message.py         entries as kombu's messages; messages with invalid fields
    kombu_compat.py    the names that kombu must have
"""

from __future__ import annotations

from petiole.tasks.transport.address import register_transport, with_transport_prefix, without_transport_prefix

__all__ = ["register_transport", "with_transport_prefix", "without_transport_prefix"]

register_transport()
