"""Import fairseq in the same way as the tests of its models."""

import tests.integrations.conftest  # noqa: F401
