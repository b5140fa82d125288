"""``sapag-fast demo``: recoveries beside DLG as published."""
