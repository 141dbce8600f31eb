"""What is learned: each method's advantages and loss, one page each."""
