"""The reweightings in other frameworks. ``sites`` builds one from a configuration."""
