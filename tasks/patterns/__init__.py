"""Patterns built on handlers: gather, idempotency, agent state, shadow traffic."""
