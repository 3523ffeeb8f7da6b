"""A base's decode steps and the reading of its prompts, compiled: what the engine hands rows to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from weakref import WeakKeyDictionary

import numpy as np
import torch

from adapter_service.decoding.compiling import missing_instructions
from adapter_service.decoding.families import Architecture, NotComputedError
from adapter_service.decoding.layers import ROWS_IN_ORDER
from adapter_service.decoding.pairs import BLOCK
from adapter_service.decoding.prompt_attention import room_for_scores, room_for_turned
from adapter_service.decoding.step import STAGES, STAGES_OF_END, make_pass
from adapter_service.decoding.tables import GATE, LINEARS, NORMS, Base, Integers, Rows
from adapter_service.decoding.team import Patience, dismiss, new_team, part_waited
from adapter_service.decoding.vectors import BFLOAT16, BFLOAT16_PAIRS, FLOAT, HAS_PAIRS
from adapter_service.decoding.weights import KINDS, Matrix, Packing, matrix_of
from adapter_service.lora.resident import Factors, ResidentAdapter

_LEAST_POSITIONS = 1024
# Bytes of weights that are worth a helper, who takes 50 µs to come; rows whose products take as long as reading those.
_WORTH_A_HELPER, _ROWS_OF_READING = 2**23, 8
# float32 numbers in a cache line.
_CACHE_LINE = 16

# Memory delivers no more to more.
_MOST_MEMBERS = 32

_threads = ThreadPoolExecutor(_MOST_MEMBERS - 1, thread_name_prefix="decoding")


class Workspace:
    """Memory for what steps make, of whoever makes them: one that pauses in the middle finds it as it was.

    It is torch's, which begins where a cache line does: a vector that lies in two lines takes twice as long to load,
    and eight rows' steps a seventh to a third longer.
    """

    def __init__(self) -> None:
        self._room: list[torch.Tensor] = []

    def addresses(self, counts: Sequence[int]) -> list[int]:
        """Of room for so many float32 numbers of each kind."""
        for place, count in enumerate(counts):
            if place == len(self._room):
                self._room.append(torch.empty(count, dtype=torch.float32))
            elif len(self._room[place]) < count:
                self._room[place] = torch.empty(2 * count, dtype=torch.float32)
        return [room.data_ptr() for room in self._room]


class Decoder:
    """Steps of one base and prompts, of whose weights it has tables, and copies where they are packed for steps.

    Whoever calls does so from one thread. What it was made of has to stay where it is in memory.
    """

    def __init__(self, architecture: Architecture, packing: Packing, *, in_pairs: bool = HAS_PAIRS) -> None:
        """Compiles what is not yet compiled.

        Prompts are read by the weights that steps read; with `in_pairs` by the base's own and inputs that are rounded
        to bfloat16, where all of those are bfloat16, which is fast where the processor multiplies pairs.

        Raises:
            NotComputedError: a layer is of a kind that a step cannot read, nothing of the base is packed so, or the
                processor lacks what compiled steps are made of.
        """
        if missing := missing_instructions():
            raise NotComputedError(f"this processor has no {' and no '.join(missing)}")
        self._architecture = architecture
        self._layers = [[_matrix(linear, packing) for linear in layer.linears] for layer in architecture.layers]
        self._head = _matrix(architecture.head, packing)
        self._embedding = Matrix(architecture.embedding)
        if packing != "as_loaded" and not self.copied_bytes:
            kinds = " and ".join(self.weight_kinds)
            raise NotComputedError(f"of its weights ({kinds}) there is nothing to copy as {packing}")
        self._places = {
            path: (number, which)
            for number, layer in enumerate(architecture.layers)
            for which, path in enumerate(layer.paths)
        }
        self._rotations: dict[str | None, tuple[torch.Tensor, torch.Tensor]] = {}
        self.adapter_dtype = _adapter_dtype(architecture.embedding.dtype, packing)
        """What steps read adapters in; of those in another type it makes a copy."""
        self._adapters: WeakKeyDictionary[ResidentAdapter, tuple[Integers, list[torch.Tensor]]] = WeakKeyDictionary()
        self._none = np.zeros((len(architecture.layers), LINEARS, 3), np.int64)
        self._bytes_of_layers = sum(matrix.bytes for layer in self._layers for matrix in layer)
        self._patience = Patience()
        self._base = self._tables()
        self._of_pairs = self._matrices_of_pairs() if in_pairs else []
        self._prompts = self._tables_of_pairs() if self._of_pairs else self._base._replace(of_prompt=1)
        self._turn_up_to(_LEAST_POSITIONS)
        self._compile()

    @property
    def layers(self) -> int:
        return len(self._layers)

    @property
    def no_keys(self) -> torch.Tensor:
        """Of no tokens (groups, 0, numbers in a head), of the type that caches have."""
        base = self._base
        return self._architecture.embedding.new_empty(base.groups, 0, base.head_size)

    @property
    def weight_kinds(self) -> list[str]:
        """Of the layers, then of the head, in torch's words."""
        return list(dict.fromkeys(str(one.weights.dtype).removeprefix("torch.") for one in self._matrices))

    @property
    def bytes_of_a_step(self) -> int:
        """What is read of the weights for each step."""
        return sum(matrix.bytes for matrix in self._matrices)

    @property
    def copied_bytes(self) -> int:
        """What it takes beside the base."""
        return sum(matrix.bytes for matrix in self._matrices if matrix.is_copy)

    def adapter_table(self, adapter: ResidentAdapter | None) -> Integers:
        """(layers, LINEARS, 3) of `tables.Rows.adapters`, for as long as the adapter is resident.

        What it changes beside the decoder's layers, as those that see, no text goes through.
        """
        if adapter is None:
            return self._none
        if adapter not in self._adapters:
            table, copies = self._none.copy(), []
            for path, factors in adapter.factors.items():
                if path in self._places:
                    layer, which = self._places[path]
                    _check(path, factors, adapter.rank_class, self._layers[layer][which].weights)
                    a, b = (matrix.to(self.adapter_dtype) for matrix in (factors.a, factors.b))
                    copies += [a, b]
                    table[layer, which] = a.data_ptr(), b.data_ptr(), adapter.rank_class
            self._adapters[adapter] = table, copies
        return self._adapters[adapter][0]

    def step(self, rows: Rows, workspace: Workspace, pause: Callable[[], None] | None = None) -> torch.Tensor:
        """Logits (rows.wanted, vocabulary), float32, of what follows the tokens of the last rows.

        Threads make it together, as many as it is worth and torch uses at most. `pause` is called before every layer,
        and may have other steps made, in a workspace of their own.

        Raises:
            IndexError: a token that the base has no row for.
        """
        return self._pass(self._base, rows, workspace, pause)

    @property
    def reads_pairs(self) -> bool:
        """Whether products of prompts are made of pairs of bfloat16."""
        return bool(self._prompts.in_pairs)

    @property
    def rounds_prompts(self) -> bool:
        """Whether prompts are read by copies of the weights in fewer bits."""
        return not self.reads_pairs and self.copied_bytes > 0

    def read(self, rows: Rows, workspace: Workspace, pause: Callable[[], None] | None = None) -> torch.Tensor:
        """As `step`, of one or more tokens of one prompt, one behind the other, in one cache."""
        return self._pass(self._prompts, rows, workspace, pause)

    def _pass(self, base: Base, rows: Rows, workspace: Workspace, pause: Callable[[], None] | None) -> torch.Tensor:
        """All layers at once, or one after the other where others may come between."""
        tokens, count = self._embedding.weights.shape[0], len(rows.tokens)
        if int(rows.tokens.max(initial=0)) >= tokens or int(rows.tokens.min(initial=0)) < 0:
            raise IndexError(f"tokens {rows.tokens.tolist()}; the base has 0 to {tokens - 1}")
        self._turn_up_to(int(rows.positions.max(initial=0)) + 1)
        logits = torch.empty(rows.wanted, base.vocabulary, dtype=torch.float32)
        layers = len(self._layers)
        at_once = layers if pause is None else 1
        members = self._most_members(count, at_once)
        room = _room(base, rows, workspace, logits, members)
        for layer in range(0, layers, at_once):
            if pause is not None:
                pause()
            end = layer + at_once
            first, behind = layer * STAGES, end * STAGES + (STAGES_OF_END if end == layers else 0)
            self._share(base, rows, room, members, first, behind)
        return logits

    def _most_members(self, rows: int, layers: int) -> int:
        """How many threads so many layers are worth, for so many rows: memory or computing is what takes the time."""
        if rows == 0:
            return 1
        weights = self._bytes_of_layers * layers // len(self._layers)
        weights += self._head.bytes if layers == len(self._layers) else 0
        work = weights * (_ROWS_OF_READING + rows) // _ROWS_OF_READING
        return min(torch.get_num_threads(), _MOST_MEMBERS, 1 + work // _WORTH_A_HELPER)

    def _share(self, base: Base, rows: Rows, room: Integers, most: int, begin: int, end: int) -> None:
        """Stages of a pass, by this thread and others."""
        members = self._patience.members(most)
        team, helpers = new_team(members), list[Future[None]]()
        try:
            with suppress(RuntimeError):  # no more threads can be started: then there are fewer
                for worker in range(1, members):
                    helpers.append(_threads.submit(make_pass, base, rows, room, team, worker, begin, end))
            make_pass(base, rows, room, team, 0, begin, end)
        except BaseException:
            dismiss(team)
            wait([helper for helper in helpers if not helper.cancel()])  # they write to what goes with the pass
            raise
        for helper in helpers:
            helper.cancel()
        if helpers:
            self._patience.saw(part_waited(team), members)

    def _compile(self) -> None:
        """By a step of no rows.

        Raises:
            Exception: whatever the compiler fails with.
        """
        layers = len(self._layers)
        none = Rows(
            tokens=np.zeros(0, np.int64),
            positions=np.zeros(0, np.int64),
            caches=np.zeros((0, layers, 2), np.int64),
            strides=np.zeros(0, np.int64),
            adapters=np.zeros((0, layers, LINEARS, 3), np.int64),
            strengths=np.zeros(0, np.float32),
            wanted=0,
        )
        try:
            self.step(none, Workspace())
        except OSError:  # it is compiled, and could not be kept for the next start
            self.step(none, Workspace())

    def _turn_up_to(self, positions: int) -> None:
        """Have rotary tables for so many positions."""
        known = next(iter(self._rotations.values()), None)
        if known is not None and len(known[0]) >= positions:
            return
        count = max(_LEAST_POSITIONS, 1 << (positions - 1).bit_length())
        kinds = {layer.rotation for layer in self._architecture.layers}
        self._rotations = {kind: self._architecture.rotation(kind, count) for kind in kinds}
        for number, layer in enumerate(self._architecture.layers):
            self._base.rotations[number] = [table.data_ptr() for table in self._rotations[layer.rotation]]

    @property
    def _matrices(self) -> list[Matrix]:
        return [*(matrix for layer in self._layers for matrix in layer), self._head]

    def _tables(self) -> Base:
        known, layers = self._architecture, len(self._layers)
        hidden, between = known.embedding.shape[1], self._layers[0][GATE].weights.shape[0]
        queries, keys = known.heads * known.head_size, known.groups * known.head_size
        shapes = [
            (queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries),
            (between, hidden), (between, hidden), (hidden, between),
        ]  # fmt: skip
        if any([tuple(matrix.weights.shape) for matrix in layer] != shapes for layer in self._layers):
            raise NotComputedError("its layers differ in their sizes")
        if known.embedding.dtype not in {torch.float32, torch.bfloat16} or not known.embedding.is_contiguous():
            raise NotComputedError(f"a step cannot read an embedding of {known.embedding.dtype}")
        norms = np.zeros((layers, NORMS), np.int64)
        for number, layer in enumerate(known.layers):
            for place, norm in layer.norms.items():
                norms[number, place] = norm.scale.data_ptr()
        return Base(
            hidden=hidden,
            heads=known.heads,
            groups=known.groups,
            head_size=known.head_size,
            between=between,
            vocabulary=self._head.weights.shape[0],
            activation=known.activation,
            cache_kind=KINDS[known.embedding.dtype],
            adapter_kind=KINDS[self.adapter_dtype],
            of_prompt=0,
            in_pairs=0,
            epsilon=np.float32(known.final_norm.epsilon),
            embedding_factor=np.float32(known.embedding_factor),
            score_scale=np.float32(known.score_scale),
            embedding=np.array(self._embedding.entry, np.int64),
            shapes=np.array(shapes, np.int64),
            linears=np.array([[matrix.entry for matrix in layer] for layer in self._layers], np.int64),
            norms=norms,
            windows=np.array([layer.window for layer in known.layers], np.int64),
            rotations=np.zeros((layers, 2), np.int64),
            final_norm=known.final_norm.scale.data_ptr(),
            head=np.array(self._head.entry, np.int64),
        )

    def _matrices_of_pairs(self) -> list[Matrix]:
        """The base's own, as products of pairs read them; none where they are not all such."""
        if self._base.cache_kind != BFLOAT16 or self._base.head_size % BLOCK:
            return []
        linears = [linear for layer in self._architecture.layers for linear in layer.linears]
        read = [matrix_of(linear, "as_loaded") for linear in (*linears, self._architecture.head)]
        found = [matrix for matrix in read if matrix is not None and matrix.is_of_pairs]
        return found if len(found) == len(read) else []

    def _tables_of_pairs(self) -> Base:
        *entries, head = np.array([matrix.entry_of_pairs for matrix in self._of_pairs], np.int64)
        return self._base._replace(
            linears=np.array(entries).reshape(self._base.linears.shape),
            head=head.copy(),
            adapter_kind=BFLOAT16_PAIRS,
            of_prompt=1,
            in_pairs=1,
        )


def _room(base: Base, rows: Rows, workspace: Workspace, logits: torch.Tensor, members: int) -> Integers:
    """Room for what a pass makes, in the order of `tables.HIDDEN` to `tables.INNER_STRIDE`."""
    count, positions = len(rows.tokens), int(rows.positions.max(initial=0)) + 1
    queries, keys = base.heads * base.head_size, base.groups * base.head_size
    rank = int(rows.adapters[..., 2].max(initial=1))
    widths = [base.hidden, base.hidden, queries, keys, keys, queries, base.between, base.between]
    widths += [base.hidden // 2, max(queries, base.between) // 2] if base.in_pairs else [0, 0]
    if base.in_pairs:
        turned, scores = room_for_turned(positions, base.groups, base.head_size), room_for_scores(positions)
    else:
        turned, scores = 0, (ROWS_IN_ORDER if base.of_prompt else base.heads // base.groups) * positions
    scores = -(-scores // _CACHE_LINE) * _CACHE_LINE  # no two threads write to one
    *addresses, at_turned, at_scores = workspace.addresses(
        [*(count * width for width in (*widths, rank)), turned, members * scores]
    )
    strides = scores * FLOAT, rank * FLOAT
    return np.array([*addresses, logits.data_ptr(), at_turned, at_scores, *strides], np.int64)


def _adapter_dtype(of_base: torch.dtype, packing: Packing) -> torch.dtype:
    """That of a bfloat16 base, in which training multiplies too; 16 bits where weights are packed, for with float32 the
    adapters of eight rows would be as much to read as a small base.
    """
    if of_base is torch.bfloat16:
        return of_base
    return torch.float32 if packing == "as_loaded" else torch.float16


def _matrix(linear: torch.nn.Module, packing: Packing) -> Matrix:
    if (matrix := matrix_of(linear, packing)) is None:
        raise NotComputedError(f"a step cannot read the weights of {type(linear).__name__}")
    return matrix


def _check(path: str, factors: Factors, rank: int, weights: torch.Tensor) -> None:
    """Before their addresses are all that is known of them.

    Raises:
        ValueError: they are not as a step reads them.
    """
    (outputs, inputs), found = weights.shape, (factors.a, factors.b)
    shapes = [tuple(matrix.shape) for matrix in found]
    if shapes != [(rank, inputs), (rank, outputs)] or not all(matrix.is_contiguous() for matrix in found):
        wanted = [(rank, inputs), (rank, outputs)]
        raise ValueError(f"the factors of {path!r} are {shapes}; {wanted} are wanted, each in one piece")
