"""Score a checkpoint of a run again: python evaluate.py RUN [--checkpoint last|best|step-00000123] [key=value ...]"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends them without a traceback
    from multimax.suite.programs import evaluate

    evaluate()
