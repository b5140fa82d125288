"""Speed of the fused objectives inside other tools."""
