"""Prepare IWSLT14 De-En, or other line-aligned text, to train on: python scripts/prepare_iwslt14.py FOLDER --help"""

if __name__ == "__main__":
    from multimax.suite.data.iwslt14 import main  # here, so that the processes that tokenise do not load torch

    main()
