"""Demonstrations: a whole home hub on this machine, its broker and its S3 server included."""
