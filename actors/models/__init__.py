"""Language models: what is asked of one, the backends that answer, and the list of those that can be configured."""
