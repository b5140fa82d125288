"""An audit left alone, and one that is killed and resumed."""
