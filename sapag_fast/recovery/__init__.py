"""From a gradient to inputs: `recover`, its result, its certificate."""
