"""Text for a terminal: names of files and programs must not send it control sequences."""


def printable(text: str) -> str:
    """The text, with unprintable characters escaped as in a Python string."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
