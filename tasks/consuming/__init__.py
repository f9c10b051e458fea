"""Consuming: from a message in a queue to a delivery; the worker's side of Celery."""
