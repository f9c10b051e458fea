"""Publishing: validate and record an event, and send messages to the queues of its subscriptions."""
