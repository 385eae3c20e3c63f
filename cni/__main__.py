"""The plugin as a program, and the ``__main__.py`` at the root of the zipapp."""

from cni.protocol import main

if __name__ == "__main__":
    main()
