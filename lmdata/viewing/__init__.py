"""How an example is found and made: tables of the store, walks, masks."""
