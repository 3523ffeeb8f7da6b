"""`python -m adapter_service.cli`: the same as `adapter-service`."""

from adapter_service.cli.main import app

app(prog_name="adapter-service")
