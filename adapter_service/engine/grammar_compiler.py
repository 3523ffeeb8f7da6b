"""Grammars to constraints, through llguidance: once for a request, in the thread of whoever asks."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from adapter_service.engine.constraints import Constraint
from adapter_service.engine.grammars import Grammar
from adapter_service.errors import InvalidParameterError

if TYPE_CHECKING:
    import torch

# What llguidance has before the name of a special token in a grammar.
_SPECIAL = b"\xff"
_ADDED = '"added_tokens"'
_SHOWN_CHARACTERS = 300
_UNKNOWN_KEYS = re.compile(r"Unimplemented keys: \[(.*?)\]")
# What llguidance tells beside its reason: a place in the grammar that we made of the schema, that grammar itself and
# the parser's state behind it, and a pattern once more before what is wrong with it.
_NOT_THE_CALLERS = (
    (re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?"), ""),
    (re.compile(r"\n *\d+ \| .*", re.DOTALL), ""),
    (re.compile(r"\n<state>.*", re.DOTALL), ""),
    (re.compile(r"(invalid regex .*)?regex parse error:\n.*\nerror: ", re.DOTALL), "regex parse error: "),
)
# What a grammar may cost before its first token, in llguidance's units. Repetitions within repetitions reach it: at
# the default, ten times as much, "((a{1000}){1000}){1000}" took 1.9 s and 250 MB, with this 0.06 s and 20 MB.
# A schema of 400 properties and 10,000 choices stay below.
_FUEL = 100_000
_NOTHING_ALLOWED = "NoExtensionBias"  # llguidance's word for a grammar without a single text


class GrammarCompiler:
    """For one tokenizer, whose vocabulary is laid out at the first grammar.

    That takes 0.6 s of the caller's thread for 49,152 tokens and 3.5 s for 262,144; others wait for it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._table: Any = None

    def compile(self, grammar: Grammar) -> Constraint:
        """Compile `grammar`, from any thread.

        Raises:
            InvalidParameterError: it is none, too big or without a text, with llguidance's reason; or the tokenizer
                is of a kind whose tokens cannot be told from outside.
        """
        from llguidance import LLMatcher, LLParserLimits

        with self._lock:
            if self._table is None:
                self._table = _vocabulary(self._tokenizer, grammar.parameter)
        limits = LLParserLimits(initial_lexer_fuel=_FUEL)
        matcher = LLMatcher(self._table, grammar.source, log_level=0, limits=limits)
        if reason := matcher.get_error():
            raise InvalidParameterError(
                f"{grammar.parameter} cannot be followed: {_told(reason, 'Change it, or leave it out')}",
                parameter=grammar.parameter,
            )
        compiled = _Compiled(matcher, self._table, grammar)
        compiled.begin(frozenset()).try_out()
        return compiled


class _Compiled:
    def __init__(self, matcher: Any, table: Any, grammar: Grammar) -> None:
        self.lark = grammar.lark
        self._matcher = matcher
        self._table = table
        self._parameter = grammar.parameter

    def begin(self, ends: frozenset[int]) -> _Follower:
        return _Follower(self._matcher.deep_copy(), self._table, sorted(ends), self._parameter)


class _Follower:
    """llguidance knows one end token, and allows it where the grammar accepts; here every end is allowed there.

    An end that is a word of the grammar too is an end only.
    """

    def __init__(self, matcher: Any, table: Any, ends: list[int], parameter: str) -> None:
        self._matcher = matcher
        self._table = table
        self._ends = ends
        self._parameter = parameter

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
        if not self._matcher.is_stopped():
            known = self._known()
            size = min(len(known), len(allowed))  # a base may have more rows than its tokenizer has tokens
            allowed[:size] = known[:size]
        allowed[self._ends] = self._matcher.is_accepting()
        if not int(allowed.sum()):  # `any` takes 145 µs for 262,144 tokens, this 55
            raise self._failed("no token of this base can go on from here")
        return torch.where(allowed.to(logits.device), logits, -torch.inf)

    def take(self, token: int) -> None:
        if token not in self._ends and not self._matcher.consume_token(token):
            raise self._failed(self._matcher.get_error() or f"token {token} is not allowed here")

    def try_out(self) -> None:
        """Go one token far: that is where it comes out what a pattern costs.

        Here, and not on the thread that all answers share.
        """
        if len(first := self._known().nonzero()):
            self.take(int(first[0]))
            self._known()

    def _known(self) -> torch.Tensor:
        """What the grammar allows of the tokenizer's tokens, (tokens,)."""
        import torch

        known = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        if reason := self._matcher.get_error():
            raise self._failed(reason)
        if int(known.sum()) == 1 and self._table.is_special_token(only := int(known.nonzero())):
            # Where all that follows is sure, llguidance asks the tokenizer for its tokens, to which the letters of
            # "</s>" are the end token; this is text, and has the tokens of text.
            text = self._matcher.compute_ff_bytes()
            if text and not text.startswith(_SPECIAL):
                known[only] = False
                known[self._table.greedy_tokenize(text.decode(errors="ignore"))[0]] = True
        return known

    def _failed(self, reason: str) -> InvalidParameterError:
        return InvalidParameterError(
            f"the answer cannot keep to {self._parameter}: {_told(reason, 'Make it simpler')}",
            parameter=self._parameter,
        )


def _told(reason: str, otherwise: str) -> str:
    """llguidance's reason and what to do, which is `otherwise` where it is not one that we know."""
    if found := _UNKNOWN_KEYS.search(reason):
        keys = found[1].replace('"', "'")
        return f"this service does not know {_cut(keys)} in a schema: take that out"
    if _NOTHING_ALLOWED in reason:
        return (
            'no text does, or none that ends (a schema that is {"$ref": "#"} alone refers to itself and nothing else): '
            "write there what the answer shall be"
        )
    for pattern, rest in _NOT_THE_CALLERS:
        reason = pattern.sub(rest, reason)
    return f"{_cut(reason.strip())}. {otherwise}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _vocabulary(tokenizer: Any, parameter: str) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Not by llguidance.hf, which copies the tokenizer first: that is half of the time for 262,144 tokens.
        described = fast.to_str()
        # What stands before is how the last call padded and truncated.
        described = f'{{"version":"1.0","truncation":null,"padding":null,{described[described.index(_ADDED) :]}'
        return LLTokenizer(described, eos_token=tokenizer.eos_token_id)
    if not hasattr(tokenizer, "sp_model"):
        raise InvalidParameterError(
            f"this base's tokenizer ({type(tokenizer).__name__}) does not tell what its tokens are, so no answer can "
            f"be held to a grammar; leave {parameter} out, or take a base with tokenizer.json",
            parameter=parameter,
        )
    return LLTokenizer(TokenizerWrapper(_Pieces(tokenizer.sp_model)))


class _Pieces:
    """A SentencePiece model's vocabulary as llguidance asks for it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.eos_token_id = model.eos_id()
        self.bos_token_id = model.bos_id() if model.bos_id() >= 0 else None
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for number in range(model.get_piece_size()):
            piece = model.id_to_piece(number)
            if model.is_control(number) or model.is_unknown(number) or model.is_unused(number):
                self.special_token_ids.append(number)
            if model.is_byte(number):
                self.tokens.append(bytes([int(piece[3:5], 16)]))  # <0xE0>
            else:
                self.tokens.append(piece.replace("\u2581", " ").encode())

    def __call__(self, text: str | bytes) -> list[int]:
        found: list[int] = self._model.encode(text.decode(errors="ignore") if isinstance(text, bytes) else text)
        return found
