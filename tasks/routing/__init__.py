"""Routing: choose the subscriptions that get an event. Pure functions: no broker, no store."""
