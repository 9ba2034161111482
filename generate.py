"""Continue a text with a language model of a run: python generate.py RUN --prompt "The statement" [--top-p 0.9]"""

from multimax.suite.programs import generate

if __name__ == "__main__":
    generate()
