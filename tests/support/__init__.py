"""Stand-ins for everything around the node: upstream, gateway, platform; and the node itself as a process."""
