"""The one exception that the helpers raise for input that a reader can correct."""


class CourseError(ValueError):
    """A mistake in the input; the message says what is wrong, what was found and what to do."""
