"""The version of the distribution, read by the build and written into every log."""

VERSION = "0.1.0"
