"""Views of logs (catalogue, provenance, learning, status, diff); they never write one."""
