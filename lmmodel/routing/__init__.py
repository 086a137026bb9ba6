"""How a text finds its expert: domains, what tells them apart, the folder that keeps it."""
