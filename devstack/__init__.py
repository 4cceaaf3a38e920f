"""What `start.sh` brings up besides the node: a broker, a gateway, an embedded model. For development and tests."""
