"""Import fairseq as the tests of its models do."""

import tests.integrations.conftest  # noqa: F401
