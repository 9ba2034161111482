"""Train one run, or with -m a sweep: python train.py task=deit reweight=multimax scale=demo|small|paper [key=value ...]"""

from multimax.cli import train

if __name__ == "__main__":
    train()
