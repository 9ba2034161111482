"""Continue a text with a language model of a run: python generate.py RUN --prompt "The statement" [--top-p 0.9]"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends them without a traceback
    from multimax.suite.programs import generate

    generate()
