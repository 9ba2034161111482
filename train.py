"""Train a run, or a sweep with -m: python train.py task=deit reweight=multimax scale=demo [KEY=VALUE]..."""

from multimax.suite.programs import train

if __name__ == "__main__":
    train()
