"""One step of training on several devices: what prepares a network, and what processes agree on."""
