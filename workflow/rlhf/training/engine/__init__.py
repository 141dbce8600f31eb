"""What happens to weights in training: gradients, updates, states, and whole weights to publish."""
