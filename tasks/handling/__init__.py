"""Handling: run the handler of a delivery, and collect what it publishes."""
