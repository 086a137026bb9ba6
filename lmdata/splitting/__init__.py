"""How documents become sentences: characters, abbreviations, rules, wrapped lines."""
