"""What an attack is given: the network, its loss, its gradients, its labels."""
