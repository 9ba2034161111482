"""One HTML page that compares runs: no network, no server, nothing to build. See ``html.page``."""
