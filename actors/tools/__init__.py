"""What an agent can do: tools behind one gate, which asks policy and people before anything runs."""
