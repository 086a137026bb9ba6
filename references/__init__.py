"""What tests and benchmarks both compare with: slow oracles, and data made up by rule."""
