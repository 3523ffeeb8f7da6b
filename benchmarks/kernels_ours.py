"""Our side of `kernels`: batches of one base by every kernel, without a server around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from adapter_service.base_models.threads import on_threads
from adapter_service.engine.batch import MixedBatch, read_whole
from adapter_service.engine.kernels import Kernel
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.probe import choose_batch
from adapter_service.engine.sequence import Sequence
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.folder import write_folder
from adapter_service.lora.layer import LowRankLinear, install
from adapter_service.lora.resident import ResidentAdapter
from adapter_service.model_utils import BaseModel, load_base
from adapter_service.settings import KernelSetting, load_settings
from benchmarks.training import Base
from benchmarks.training_rows import make_rows

RANK, LORA_STD = 16, 0.01
_READ_BYTES = 2**28


def read_bandwidth() -> float:
    """GB/s that one thread reads from memory, the best of some rounds."""
    numbers = torch.ones(_READ_BYTES // 4)
    best = float("inf")
    with on_threads(1):
        for _ in range(10):
            started = time.perf_counter()
            numbers.sum()
            best = min(best, time.perf_counter() - started)
    return _READ_BYTES / best / 1e9


@dataclass
class Ours:
    """One loaded base, its kernels and adapters, and a prompt for each row."""

    base: BaseModel
    layers: dict[str, LowRankLinear]
    prompts: list[list[int]]
    rows: int
    _kernels: dict[KernelSetting, Kernel] = field(default_factory=dict)
    _residents: dict[tuple[int, torch.dtype], ResidentAdapter] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Base, rows: int, prompt_tokens: int) -> Ours:
        """With a prompt of so many tokens for each row, of the corpus' samples one behind the other."""
        settings = load_settings()
        loaded = load_base(base.name, bases_dir=settings.storage.state_dir.absolute() / "bases", device="cpu")
        layers = install(loaded.model, keep=loaded.model.get_output_embeddings())
        tokens = [token for row in make_rows(settings, loaded.tokenizer, 400, seed=0) for token in row.ids]
        prompts = [tokens[row * prompt_tokens : (row + 1) * prompt_tokens] for row in range(rows)]
        return cls(loaded, layers, prompts, rows)

    def adapter(self, number: int) -> Adapter:
        """Random, and such that it changes what is answered."""
        adapter = Adapter.fresh(LoraConfig(r=RANK), self.layers, seed=number)
        generator = torch.Generator().manual_seed(number)
        for pair in adapter.pairs.values():
            pair.b.data.normal_(std=LORA_STD, generator=generator)
        return adapter

    def write_folder(self, number: int, folder: Path) -> Path:
        folder.mkdir()
        write_folder(self.adapter(number), folder, base_name=self.base.name)
        return folder

    def resident(self, number: int, dtype: torch.dtype) -> ResidentAdapter:
        if (number, dtype) not in self._residents:
            adapter = self.adapter(number)
            self._residents[number, dtype] = ResidentAdapter.of(str(number), adapter, dtype, self.base.device)
        return self._residents[number, dtype]

    def kernel(self, setting: KernelSetting) -> Kernel:
        """As the service chooses it."""
        if setting not in self._kernels:
            prefixes = PrefixCache(CHUNK_TOKENS, 0)
            chosen = choose_batch(self.base, "plain", rows=self.rows, prefixes=prefixes, kernel=setting)
            self._kernels[setting] = chosen.kernel
        return self._kernels[setting]

    def weights(self, setting: KernelSetting) -> str:
        return self.kernel(setting).weights

    def bytes_of_a_step(self, setting: KernelSetting) -> int:
        """Of weights, without the adapter's."""
        kernel = self.kernel(setting)
        if kernel.decoder is None:
            raise SystemExit(f"there are no compiled steps here: {kernel.reason}")
        return kernel.decoder.bytes_of_a_step

    def batch(self, setting: KernelSetting) -> MixedBatch:
        kernel = self.kernel(setting)
        return MixedBatch(
            self.base,
            rows=self.rows,
            template_id="plain",
            prefixes=PrefixCache(CHUNK_TOKENS, 0),
            decoder=kernel.decoder,
            prompts_by=kernel.prompts_by,
            recordings=kernel.recordings,
        )

    @torch.inference_mode()
    def logits(self) -> torch.Tensor:
        """Those (vocabulary,) after one of the prompts."""
        batch, sequence = self.batch("auto"), Sequence(self.prompts[0], len(self.prompts[0]) + 1)
        found = read_whole(batch, sequence)
        batch.remove(sequence)
        return found

    def seconds_by(self, setting: KernelSetting, threads: int = 1) -> Callable[[int, int, int], float]:
        """Seconds of so many rows, each with its own prompt and adapter, for tokens that are chosen greedily."""
        batch, dtype = self.batch(setting), self.kernel(setting).adapter_dtype(self.base)

        @torch.inference_mode()
        def seconds(rows: int, tokens: int, prompt_tokens: int) -> float:
            sequences = [
                Sequence(self.prompts[row][:prompt_tokens], prompt_tokens + tokens, self.resident(row, dtype))
                for row in range(rows)
            ]
            with on_threads(threads):
                started = time.perf_counter()
                for sequence in sequences:
                    sequence.next_token = int(read_whole(batch, sequence).argmax())
                    batch.join(sequence)
                for _ in range(tokens - 1):
                    for sequence, logits in batch.step():
                        sequence.next_token = int(logits.argmax())
                taken = time.perf_counter() - started
            for sequence in sequences:
                batch.remove(sequence)
            return taken

        return seconds
