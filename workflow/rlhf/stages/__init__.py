"""One thin command-line module per rule: parse, call the library, write the manifest."""
