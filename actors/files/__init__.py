"""The user's files, as the API reads and writes them, in the tools' jail."""
