"""``python -m onepass`` is the command `onepass`."""

from onepass.cli.app import main

main()
