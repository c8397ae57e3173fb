"""From a document to a configuration: keys, bounds, older flat keys, input images."""
