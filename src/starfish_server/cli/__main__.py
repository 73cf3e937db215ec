"""`python -m starfish_server.cli` is the `starfish` command."""

from starfish_server.cli import main

main()
