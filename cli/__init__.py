"""The commands `lmdata` and `lmmodel`: parse, build the configuration, call one function, print."""
