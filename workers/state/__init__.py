"""State of the bundled agents: memories, facts, vectors, event counts, outbound messages, approvals."""
