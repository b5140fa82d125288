"""Speed of a step, of the optimisers and of whole attacks."""
