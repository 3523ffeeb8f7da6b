"""Find stop strings in a text that comes character by character."""

from __future__ import annotations


class StopString:
    """How much of one stop string the text has just said, after Knuth, Morris and Pratt.

    Each character costs the same on the average, however long the string is.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._shorter = _borders(text)
        self.begun = 0
        """Length of the longest end of the text so far that the string begins with."""

    def take(self, character: str) -> bool:
        """Go on by one character; whether the string is now complete. After that, take no more."""
        while self.begun and self._text[self.begun] != character:
            self.begun = self._shorter[self.begun - 1]
        if self._text[self.begun] == character:
            self.begun += 1
        return self.begun == len(self._text)


def _borders(text: str) -> list[int]:
    """For each beginning of `text`, the length of the longest shorter beginning that it also ends with."""
    found = [0] * len(text)
    length = 0
    for place in range(1, len(text)):
        while length and text[place] != text[length]:
            length = found[length - 1]
        if text[place] == text[length]:
            length += 1
        found[place] = length
    return found
