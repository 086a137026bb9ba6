"""How documents become sentences: characters, abbreviations, rules, wrapped lines."""

SPLITTER_VERSION = "lmdata-rules-1"
"""Name and version of the rules, kept in every manifest; a changed boundary changes it."""
