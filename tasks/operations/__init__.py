"""Operations beside the event's path: error channel, lifecycle events, metrics, history replay."""
