"""From result files to the tables of README.md."""
