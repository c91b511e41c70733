"""Word lists that several families share."""

NAMES = (
    "Tom", "Mia", "Ben", "Anna", "Sam", "Lucy", "Max", "Ella", "Leo", "Nora", "Jack", "Rosa", "Paul", "Ida",
)  # fmt: skip

THINGS = (
    "apples", "pears", "plums", "eggs", "books", "coins", "stamps", "shells", "pencils", "balls",
    "cards", "cakes", "buttons", "stones", "flowers", "nuts",
)  # fmt: skip

PEOPLE = (
    "friend", "brother", "sister", "teacher", "neighbour", "doctor", "farmer", "baker",
    "driver", "nurse", "cousin", "grandmother", "grandfather", "child", "guest", "student",
)  # fmt: skip

LEADS = tuple(f"{name} asks: " for name in NAMES) + tuple(f"Please help {name}. " for name in NAMES)
"""Openings of a question that change nothing in what a right answer is."""
