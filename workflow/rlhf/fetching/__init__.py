"""From a hub, or from addresses, to checked files; and the lock that says which they are."""
