"""Settlement: end an attempt as handled, retried, deferred, dead-lettered or requeued."""
