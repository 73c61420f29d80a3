"""The networks, one readable file each, and the table of published sizes."""
