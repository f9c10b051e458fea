"""The broker: queue names and declarations, messages, sending, queue lengths."""
