"""What a home hub's nodes can do: their command schemas, checked, and what is made of them to learn from."""
