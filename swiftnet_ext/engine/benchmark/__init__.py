"""`swiftnet benchmark`: ours against what a user would pick instead, by the paper's loop and the user's; docs/benchmarks.md."""
