"""The reweightings in other people's frameworks. ``sites`` builds one from a configuration."""
