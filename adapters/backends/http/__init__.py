"""HTTP for backends that are servers: addresses, credentials, connections and their errors."""
