"""Prepare IWSLT14 De-En, or other line-aligned text, to train on: python scripts/prepare_iwslt14.py FOLDER --help"""

from multimax.data.iwslt14 import main

if __name__ == "__main__":
    main()
