"""Models: loading, heads, and the forward passes that training and scoring share."""
