"""Quality, time and memory of every method on the shared volumes. `python -m benchmarks`; see README.md here."""
