"""Speed of the distance and V."""
