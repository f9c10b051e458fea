"""Start and stop processes: the embedded broker, discovery of agents, child processes."""
