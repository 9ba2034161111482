"""Train a run, or a sweep with -m: python train.py task=deit reweight=multimax scale=demo [KEY=VALUE]..."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends them without a traceback
    from multimax.suite.programs import train

    train()
