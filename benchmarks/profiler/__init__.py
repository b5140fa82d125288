"""Whether the profiler adds up and what it costs."""
