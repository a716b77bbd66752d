"""Types, keys, the store, claims and the journal. Imports no other package of mosweep."""
