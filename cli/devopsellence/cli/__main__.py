"""``python -m devopsellence.cli``: the same as ``devopsellence``."""

from devopsellence.cli.main import main

if __name__ == "__main__":
    main()
