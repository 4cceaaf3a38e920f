"""`python -m devstack.gateway` runs the development gateway."""

from devstack.gateway.server import main

if __name__ == "__main__":
    main()
