"""How token stores are written in the formats of other trainers."""
