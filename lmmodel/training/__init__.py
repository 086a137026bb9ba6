"""How a run is trained: the plan, batches, one step, the loop, the report."""
