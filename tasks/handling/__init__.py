"""Handling: run a delivery's handler and buffer the events that it publishes."""
