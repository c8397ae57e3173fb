"""For tests of programs: recorder, assertions, timelines as text, failpoints."""
