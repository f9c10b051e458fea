"""Observe a worker process from outside: logging, liveness, readiness. An observer changes no outcome."""
