import pytest
import wandb
from wandb_server import WandbServer


@pytest.fixture(autouse=True)
def _wandb_of_its_own(tmp_path_factory, monkeypatch):
    """Hide the key, settings and service of the user and of other tests."""
    home = tmp_path_factory.mktemp("home")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "0.1")  # seconds; 15 in normal use
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch):
    """A stand-in for W&B's server, which this process and its children talk to."""
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
