"""One adapter a file: each reads one on-disk format (or simulates a world) into a LiveCommerceData."""
