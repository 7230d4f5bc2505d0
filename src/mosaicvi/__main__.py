"""``python -m mosaicvi``, as torchrun starts it too."""

from mosaicvi.cli import main

if __name__ == "__main__":
    main()
