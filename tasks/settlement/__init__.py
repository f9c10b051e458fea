"""Settlement: how an attempt ends: handled, retried, deferred, dead-lettered or requeued."""
