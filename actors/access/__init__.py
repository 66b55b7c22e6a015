"""Who may do what: credentials of every kind, how they are made, and the guard that knows them."""
