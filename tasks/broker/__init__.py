"""The broker: queue names and declarations, messages, the producer, queue lengths."""
