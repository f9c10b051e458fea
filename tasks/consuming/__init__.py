"""Consuming: the worker's side of Celery, from a message in a queue to a delivery."""
