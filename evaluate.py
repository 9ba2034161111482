"""Score a checkpoint of a run again: python evaluate.py RUN [--checkpoint last|best|step-00000123] [key=value ...]"""

from multimax.suite.programs import evaluate

if __name__ == "__main__":
    evaluate()
