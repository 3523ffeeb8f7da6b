"""From samples to a scored adapter: rendering, batches, loss, loop, evaluation and the gate."""
