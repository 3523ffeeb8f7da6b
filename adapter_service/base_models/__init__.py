"""Base models: where one lies, how it becomes a local folder, and in which precision it is held."""
