"""Word lists that several families share."""

NAMES = ("Tom", "Mia", "Ben", "Anna", "Sam", "Lucy", "Max", "Ella", "Leo", "Nora")

THINGS = ("apples", "pears", "plums", "eggs", "books", "coins", "balls", "cards")

PEOPLE = ("friend", "brother", "sister", "teacher", "neighbour", "doctor", "farmer", "baker", "driver", "child")

LEADS = tuple(f"{name} asks: " for name in NAMES) + tuple(f"Please help {name}. " for name in NAMES)
"""Openings of a question that change nothing in what a right answer is."""
