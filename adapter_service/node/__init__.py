"""A small node of a home hub: it is told of its adapters over MQTT, fetches them and makes the newest its own.

`python -m adapter_service.node --help` says how to start one. It needs no model and loads none.
"""
