"""Tests: each proves one behaviour through public names."""
