"""Where an attack's distance and its gradient toward the inputs come from."""
