"""Publishing: from an event to messages in the queues of its subscribers."""
