"""Text for a terminal, to which names of files and programs must not speak."""


def printable(text: str) -> str:
    """The text with what is not printable written out, as in a Python string."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
