"""How a token store is built: plan, units of work, workers, parts, shards."""
