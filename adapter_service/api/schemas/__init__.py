"""What requests and answers look like over HTTP, one file per group of routes."""
