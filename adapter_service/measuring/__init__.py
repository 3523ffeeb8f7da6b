"""What was learned, measured: smoke run, evaluation with its controls, and reports a program writes."""
