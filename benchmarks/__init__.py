"""What makes the pages of docs/: one command a page, `python -m benchmarks.NAME` from the root."""
