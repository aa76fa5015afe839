"""Every error that bad input can cause is a LicError: one line for a person, one family for a program."""


class LicError(Exception):
    """Base of the family; `str(error)` is one line that says what is wrong."""


class NotLic(LicError):
    """The bytes do not start like a .lic file."""


class Corrupt(LicError):
    """The file is damaged: truncated, altered, or with bytes to spare."""


class Unsupported(LicError):
    """Well-formed, but this version cannot do it (newer format, 16 bit, CMYK …)."""


class TooLarge(LicError):
    """The picture has more pixels than the limit allows."""


class MissingWeights(LicError):
    """The weights that a file (or an option) names are not installed."""


class BadWeights(LicError):
    """A weights file is damaged, does not fit its architecture or fails its self-test."""


class MissingExtra(LicError):
    """An optional package that this needs is not installed."""
