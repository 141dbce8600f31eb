"""Generated pages: the references of the configuration and of data."""
