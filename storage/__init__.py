"""What the daemon keeps: tables, and commands and queries on them: plain functions `(connection, message) -> reply`.

`registry.py` says which function takes which message, `group.py` commits commands together, `database.py` opens it all.
"""
