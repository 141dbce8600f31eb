"""What on-policy methods share: sampling, rewards, the reference, and the loop around them."""
