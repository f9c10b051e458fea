"""Our kombu transport for Redis and Valkey: stock Celery above it, stock keys below it, nothing lost between them.

    petiole+redis://  petiole+rediss://  petiole+socket://  petiole+sentinel://

Importing this package makes these URLs known to kombu.

Kombu's own transport stays what it is, and this one is as small a subclass of it as it could be. It changes what was
measured to lose messages or time:

- *A message is taken and recorded in one step.* Kombu pops it, and in a second round trip notes that it did; a worker
  that is killed between the two loses it (7 of 20,000 in 20 kills). Here one Lua step moves it (`scripts/fetch.lua`).
- *One step takes many messages, and carries the acks of those before.* Kombu makes three round trips for each message,
  which is two thirds of a busy worker's time. A fetch is as large as the free prefetch; what it brought is handed over
  in slices of 10 ms, so that acks and remote control are not held up behind it. Acks wait 20 ms at most, or a handler
  that keeps the loop.
- *A turn admits, and an ack marks.* Where the state store is on the same server, both note what else would cost a
  delivery two round trips of its own. See `ledger.py`; what it is good for is in `tasks/settlement/deduplication.py`.
- *Who waits waits for a bell, not for a message.* A blocking pop of a queue would be the lost step again. Publishers
  ring `<queue><sep>wakeup`, which costs them nothing more: it is in the step that puts the message. A stock publisher
  does not ring; who waits looks by himself every second, and twenty times a second while unannounced messages come.
- *One redis client per channel.* Kombu makes one for each command, at 60 to 90 us each.
- *A lost connection stays a lost connection.* Kombu rebuilds a pool from a connection that is gone and dies of the
  AttributeError; here it is the ConnectionError that Celery recovers from.
- *What was left unacked goes back by compare and move.* Kombu watches the whole hash and starts over whenever anybody
  writes to it, under a lock that a killed worker leaves for five minutes. Here a message goes back if it is still
  there to go back, some hundreds a sweep, by the server's clock.
- *Who holds a message is known, and heard of twice a second.* A dead worker's messages go back two to three seconds
  after its last word, and a handler may run as long as it likes: its lease is renewed. See `leases.py`; the worker's
  part is `tasks/consuming/maintenance.py`. An ack of a message that another holds by now does nothing.
- *Bytes that are no message are kept in `unacked<sep>undecodable`.* Kombu's worker dies of them.

Keys, their layout and what stands in them are kombu's, so stock clients and workers share queues with ours, and a
cluster moves over one process at a time. Beside them stand `unacked<sep>leased`, a hash of delivery tags and holders, and
`unacked<sep>consumers`, a sorted set of holders by when they were last heard of. Fanout, remote control, events,
bindings, TLS, Sentinel and every option of kombu's transport are inherited. What is private to kombu and overridden
here is listed in `inherited.py` and checked when a connection is made.

    address.py      from petiole+redis:// to what kombu makes of redis://
    transport.py    Transport and Poller: the event loop's turn
    channel.py      Channel: puts, takes in turns, hands over
    leases.py       Leases: what is renewed, and what is taken from whoever is gone
    returns.py      what goes back to its queue
    holder.py       the names of a holder
    ledger.py       where a turn notes what it took and what was handled
    qos.py          QoS: acks
    steps.py        the Lua steps, as functions
    inherited.py    what must be there in kombu
"""

from __future__ import annotations

from petiole.tasks.transport.address import register_transport, with_transport_prefix, without_transport_prefix
from petiole.tasks.transport.consumer_id import CONSUMER_HEADER, leased_key

__all__ = ["CONSUMER_HEADER", "leased_key", "register_transport", "with_transport_prefix", "without_transport_prefix"]

register_transport()
