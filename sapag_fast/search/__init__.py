"""The search: options, recipes, the loop over many tasks, its optimisers."""
