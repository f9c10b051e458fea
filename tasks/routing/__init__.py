"""Routing: which subscriptions get an event. Pure: no broker, no store."""
