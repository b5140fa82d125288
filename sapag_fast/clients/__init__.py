"""What clients do before they share: training, gradients, defences."""
