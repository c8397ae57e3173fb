"""How passwords, keys and home folders are recognised in texts."""
