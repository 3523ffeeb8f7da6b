"""A node's adapter on its way: packed, uploaded, signed, told of, and deleted again."""
