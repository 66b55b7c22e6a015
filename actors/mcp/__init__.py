"""MCP servers, each an actor of its own: their tools become the agents' tools."""
