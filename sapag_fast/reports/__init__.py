"""What a run leaves for people: results, scores, pictures."""
