"""The reweightings in other people's frameworks. Nothing else of the project imports from here."""
