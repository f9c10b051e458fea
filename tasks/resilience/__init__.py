"""Circuit breakers, retries and rate limits for the dependencies of agents, shared by all workers.

While a dependency is down nobody calls it, and one worker probes for recovery.

guarded.py                @guarded(…): circuit breaker and retries around a call
retrying.py               when a call is retried within its handler
circuit_breaker.py        one call through a circuit breaker
error_classification.py   whether an error is the dependency's or the caller's
circuit_events.py         the events about a circuit's changes
rate_limits.py            RateLimit: a provider account's quotas
fail_open.py              what happens if the state store does not answer
"""
