"""Entry point of ``python -m devopsellence.cli``."""

from devopsellence.cli.main import main

if __name__ == "__main__":
    main()
