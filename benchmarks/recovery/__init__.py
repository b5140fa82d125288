"""What is recovered, and what a certificate is worth."""
