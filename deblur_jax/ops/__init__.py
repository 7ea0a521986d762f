"""The operations of the networks: plain mathematics, and what single kinds of device want."""
