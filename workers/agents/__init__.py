"""The bundled agents, one file each: subscriptions at the top, decisions below. No agent imports another."""
