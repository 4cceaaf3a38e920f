"""`--check`: tests what the node needs (settings, broker, upstream, rights) and says how to mend each fault."""
