"""What the service is told: adapter_config.yaml, mcp_connectors.yml and ADAPTER_* variables.

`load_settings` reads all three and returns one frozen `Settings`; nothing here is a global.
"""

from __future__ import annotations

from adapter_service.settings.backend_section import BackendSettings
from adapter_service.settings.command_sections import ArtifactSettings, CommandSettings, MqttSettings
from adapter_service.settings.faults import validate_section
from adapter_service.settings.loading import load_settings
from adapter_service.settings.masking import masked
from adapter_service.settings.section import Section
from adapter_service.settings.sections import (
    DataSettings,
    GateSettings,
    KernelName,
    KernelSetting,
    LoraSettings,
    LossSettings,
    ModelSettings,
    PublishingSettings,
    QuantizationSettings,
    RlSettings,
    SecuritySettings,
    ServingSettings,
    Settings,
    StorageSettings,
    StoreSettings,
    TrainingSettings,
)
from adapter_service.settings.sources import SourceEntry

__all__ = [
    "ArtifactSettings",
    "BackendSettings",
    "CommandSettings",
    "DataSettings",
    "GateSettings",
    "KernelName",
    "KernelSetting",
    "LoraSettings",
    "LossSettings",
    "ModelSettings",
    "MqttSettings",
    "PublishingSettings",
    "QuantizationSettings",
    "RlSettings",
    "Section",
    "SecuritySettings",
    "ServingSettings",
    "Settings",
    "SourceEntry",
    "StorageSettings",
    "StoreSettings",
    "TrainingSettings",
    "load_settings",
    "masked",
    "validate_section",
]
