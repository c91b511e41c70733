"""The families with many good answers: lists, sentences, notes, advice, reasons."""

# ruff: noqa: RUF012 (the tables are constants)

from dataclasses import replace

from rlhf_recipes.data.embedded.family import PEOPLE, Family
from rlhf_recipes.data.embedded.grammar import Pattern, capital, listed, overlap, tokens


class Lists(Family):
    """Lists of two, three or four things of a kind."""

    NAME = "lists"
    BECAUSE = ", and I like them because "
    KINDS = {
        "fruits": ("apples", "pears", "plums", "lemons", "cherries", "grapes"),
        "animals": ("dogs", "cats", "cows", "horses", "lions", "bears"),
        "colours": ("red", "blue", "green", "yellow", "black", "white"),
        "tools": ("hammers", "saws", "spades", "ropes", "ladders", "nails"),
        "clothes": ("coats", "hats", "shoes", "gloves", "shirts", "socks"),
        "foods": ("bread", "cheese", "soup", "rice", "beans", "fish"),
        "games": ("chess", "football", "tennis", "tag", "golf", "darts"),
    }
    LIKED = {
        "fruits": ("they are sweet", "they grow in my garden"),
        "animals": ("they are kind to people", "they run so well"),
        "colours": ("they look so bright", "they go well with my coat"),
        "tools": ("they help me build things", "they are easy to use"),
        "clothes": ("they keep me warm", "they fit me well"),
        "foods": ("they taste so good", "they fill me up"),
        "games": ("they are fun to play", "all my friends play them"),
    }
    NUMBERS = {"two": 2, "three": 3, "four": 4}
    QUESTIONS = (
        (Pattern("List {count} {kind}."),),
        (Pattern("Name {count} {kind} that you know."),),
        (Pattern("Give me the names of {count} {kind}."),),
        (Pattern("Can you think of {count} {kind}?"),),
    )
    SAY = "{count} {kind} are {items}"

    def task(self, slots, pattern):
        known = slots["count"] in self.NUMBERS and slots["kind"] in self.KINDS
        return super().task(slots, pattern) if known else None

    def slots(self, rng):
        return {"count": rng.choice(tuple(self.NUMBERS)), "kind": rng.choice(tuple(self.KINDS))}

    def wrong(self, rng, task):
        """Things of another kind."""
        kind = rng.choice([kind for kind in self.KINDS if kind != task.slots["kind"]])
        return replace(task, slots=task.slots | {"kind": kind})

    def answer(self, rng, task):
        items = rng.sample(self.KINDS[task.slots["kind"]], self.NUMBERS[task.slots["count"]])
        return self.SAY.format(items=listed(items), **task.slots), rng.choice(self.LIKED[task.slots["kind"]])

    def short(self, rng, task):
        return capital(rng.choice(self.KINDS[task.slots["kind"]]))

    def content(self, task, text):
        """Share of the things asked for that are there: different ones, and of the right kind."""
        named = set(tokens(text)) & set(self.KINDS[task.slots["kind"]])
        wanted = self.NUMBERS[task.slots["count"]]
        return min(len(named), wanted) / max(len(named), wanted)


class Sentence(Family):
    """One sentence about an animal in a place."""

    NAME = "sentence"
    BECAUSE = " because "
    ANIMALS = ("cat", "dog", "horse", "duck", "mouse", "bird", "cow", "fox", "frog", "goat")
    LOOKS = ("small", "big", "black", "white", "quiet", "lazy", "hungry")
    PLACES = (
        "in the kitchen", "in the garden", "on the farm", "in the forest", "at the market",
        "on the beach", "in the barn", "in the park", "at the station", "on the hill",
    )  # fmt: skip
    ACTS = {
        "sleeps": ("it is tired", "it ran all morning"),
        "plays": ("the sun is out", "it found a ball"),
        "hides": ("it heard a noise", "it is afraid of the rain"),
        "waits": ("it wants some food", "it misses its friend"),
        "sits": ("it likes the view", "its legs are sore"),
        "runs": ("it saw a bird", "it is full of joy"),
        "eats": ("it found some bread", "it is time for dinner"),
    }
    QUESTIONS = (
        (Pattern("Write one sentence about a {look} {animal} {place}."),),
        (Pattern("Tell me something about a {look} {animal} {place}."),),
        (Pattern("Make up a line about a {look} {animal} {place}."),),
    )
    SAY = "a {look} {animal} {act} {place}"

    def slots(self, rng):
        return {"look": rng.choice(self.LOOKS), "animal": rng.choice(self.ANIMALS), "place": rng.choice(self.PLACES)}

    def wrong(self, rng, task):
        """Another animal in another place."""
        return replace(task, slots=self.slots(rng))

    def answer(self, rng, task):
        act = rng.choice(tuple(self.ACTS))
        return self.SAY.format(act=act, **task.slots), rng.choice(self.ACTS[act])

    def short(self, rng, task):
        return "A {animal}".format(**task.slots)

    def content(self, task, text):
        """A third each for the animal, how it looks, and the place."""
        words = tokens(text)
        return sum(overlap(words, task.slots[slot]) for slot in ("look", "animal", "place")) / 3


class Message(Family):
    """Short notes: thanks, apologies, invitations."""

    NAME = "message"
    GIFTS = {
        "the book": ("I read it every night", "it was full of wonder"),
        "the cake": ("it tasted so good", "everyone loved it"),
        "the scarf": ("it keeps me warm", "I wear it every day"),
        "the flowers": ("they smell so fresh", "they make the room bright"),
        "the lesson": ("I learned so much", "it made things clear"),
        "the soup": ("I was cold and hungry", "it made me feel well"),
    }
    FAULTS = {
        "the noise": ("we had a party", "the dog would not sleep"),
        "the broken cup": ("it fell from my hand", "I was in a hurry"),
        "the lost key": ("my pocket has a hole", "I forgot where I put it"),
        "the dirty floor": ("my shoes were wet", "I forgot to sweep it"),
        "the mistake": ("I did not read with care", "I was too tired to think"),
    }
    EVENTS = {
        "a party": ("there will be music", "it is my birthday"),
        "a picnic": ("the weather is good", "we have a big basket"),
        "a walk": ("the forest is green now", "the air is fresh"),
        "dinner": ("we have a big fish", "we want to see you"),
        "a wedding": ("two friends will marry", "the whole family will be there"),
    }
    # (what for and why, key word, statement, questions)
    THANKS = (
        GIFTS, "thank", "dear {person}, I thank you for {what}",
        (Pattern("Say thank you to a {person} for {what}."), Pattern("Write a note to thank a {person} for {what}.")),
    )  # fmt: skip
    APOLOGY = (
        FAULTS, "sorry", "dear {person}, I am sorry for {what}",
        (Pattern("Say sorry to a {person} for {what}."),
         Pattern("Write a note to a {person} to say sorry for {what}.")),
    )  # fmt: skip
    INVITATION = (
        EVENTS, "come", "dear {person}, please come to {what}",
        (Pattern("Invite a {person} to {what}."), Pattern("Write a note to ask a {person} to {what}.")),
    )  # fmt: skip
    KINDS = (THANKS, APOLOGY, INVITATION)
    QUESTIONS = tuple((pattern, kind) for kind in KINDS for pattern in kind[3])

    def task(self, slots, pattern, kind):
        return super().task(slots | {"kind": kind}, pattern) if slots["what"] in kind[0] else None

    def draw(self, rng):
        kind = rng.choice(self.KINDS)
        pattern = rng.choice(kind[3])
        return self.task({"person": rng.choice(PEOPLE), "what": rng.choice(tuple(kind[0]))}, pattern, kind)

    def wrong(self, rng, task):
        """A note to somebody else about something else."""
        kind = rng.choice(self.KINDS)
        what = rng.choice([what for what in kind[0] if what != task.slots["what"]])
        return replace(task, slots={"kind": kind, "what": what, "person": rng.choice(PEOPLE)})

    def answer(self, rng, task):
        whats, _, say, _ = task.slots["kind"]
        return say.format_map(task.slots), rng.choice(whats[task.slots["what"]])

    def short(self, rng, task):
        return capital(task.slots["kind"][1])

    def content(self, task, text):
        """A third each for whom it is to, what it is for, and the word that makes it a note of its kind."""
        words = tokens(text)
        wanted = (task.slots["person"], task.slots["what"], task.slots["kind"][1])
        return sum(overlap(words, phrase) for phrase in wanted) / 3


class Advice(Family):
    """Advice to somebody who is tired, cold, late and so on."""

    NAME = "advice"
    # how somebody is: what helps, and why
    STATES = {
        "tired": (("go to bed early", "sleep gives new strength"), ("rest for an hour", "the body needs a break")),
        "cold": (("wear a thick coat", "wool keeps the wind out"), ("sit near the fire", "the fire is warm")),
        "hungry": (("cook some rice", "a warm meal helps"), ("eat an apple", "fruit is good for you")),
        "thirsty": (("drink some water", "the body needs it"), ("make a pot of tea", "tea feels good")),
        "bored": (("read a new book", "a story makes time fly"), ("learn to paint", "a hobby is fun")),
        "sick": (("see a doctor", "a doctor knows what to do"), ("stay in bed", "rest makes you well")),
        "lost": (("look at a map", "a map shows the way"), ("ask a police officer", "they know every street")),
        "late": (("take the bus", "the bus is fast"), ("call the office", "they want to know")),
        "sad": (("listen to music", "a good song lifts the heart"), ("go for a walk", "fresh air clears the head")),
    }
    QUESTIONS = (
        (Pattern("Give advice to a {person} who is {state}."),),
        (Pattern("My {person} is {state}. What should we do?"),),
        (Pattern("What would you say to a {person} who is {state}?"),),
        (Pattern("How can I help a {person} who is {state}?"),),
    )
    SAY = "your {person} should {do}"

    def task(self, slots, pattern):
        return super().task(slots, pattern) if slots["state"] in self.STATES else None

    def slots(self, rng):
        return {"person": rng.choice(PEOPLE), "state": rng.choice(tuple(self.STATES))}

    def wrong(self, rng, task):
        """Advice for another trouble, to another person."""
        state = rng.choice([state for state in self.STATES if state != task.slots["state"]])
        return replace(task, slots={"person": rng.choice(PEOPLE), "state": state})

    def answer(self, rng, task):
        do, why = rng.choice(self.STATES[task.slots["state"]])
        return self.SAY.format(do=do, **task.slots), why

    def short(self, rng, task):
        return capital(rng.choice(self.STATES[task.slots["state"]])[0])

    def content(self, task, text):
        """Two thirds for advice that helps, one third for naming the person."""
        words = tokens(text)
        helps = max(overlap(words, do) for do, _ in self.STATES[task.slots["state"]])
        return (2 * helps + overlap(words, task.slots["person"])) / 3

    def passage(self, rng):
        task = self.draw(rng)
        statement, why = self.answer(rng, task)
        return f"my {task.slots['person']} is {task.slots['state']}. {capital(statement)}{self.BECAUSE}{why}."


class Why(Family):
    """Why people and animals do what they do."""

    NAME = "why"
    BECAUSE = " because "
    # (who, what they do): why
    HABITS = {
        ("people", "wear coats"): ("they want to stay warm", "the wind is cold"),
        ("people", "build houses"): ("they need a safe home", "rain makes them wet"),
        ("people", "plant trees"): ("trees give shade", "they want fresh fruit"),
        ("people", "read books"): ("they like a good story", "they want to learn"),
        ("people", "lock doors"): ("they want to be safe", "they fear a thief"),
        ("children", "go to school"): ("they want to learn", "they meet friends there"),
        ("children", "play games"): ("games are fun", "they like to run"),
        ("children", "sleep at night"): ("they are tired", "the body needs rest"),
        ("farmers", "get up early"): ("the cows need food", "there is a lot of work"),
        ("farmers", "like rain"): ("plants need water", "dry fields give no food"),
        ("birds", "build nests"): ("they lay eggs there", "a nest is a safe home"),
        ("birds", "fly south"): ("winter is too cold", "there is more food there"),
        ("cats", "catch mice"): ("they are hungry", "they like to hunt"),
        ("cats", "climb trees"): ("they look for birds", "dogs cannot follow them"),
        ("dogs", "dig holes"): ("they hide a bone", "they smell a mouse"),
        ("bees", "visit flowers"): ("they make honey", "flowers give them food"),
    }
    QUESTIONS = (
        (Pattern("Why do {who} {act}?"),),
        (Pattern("Tell me why {who} {act}."),),
        (Pattern("Can you explain why {who} {act}?"),),
    )
    SAY = "{who} {act}"

    def task(self, slots, pattern):
        return super().task(slots, pattern) if (slots["who"], slots["act"]) in self.HABITS else None

    def slots(self, rng):
        return dict(zip(("who", "act"), rng.choice(tuple(self.HABITS)), strict=True))

    def wrong(self, rng, task):
        """Somebody else's habit."""
        who, act = rng.choice([habit for habit in self.HABITS if habit != (task.slots["who"], task.slots["act"])])
        return replace(task, slots={"who": who, "act": act})

    def answer(self, rng, task):
        return self.SAY.format_map(task.slots), rng.choice(self.HABITS[task.slots["who"], task.slots["act"]])

    def short(self, rng, task):
        return capital(rng.choice(self.HABITS[task.slots["who"], task.slots["act"]]))

    def content(self, task, text):
        """Half for saying why, a quarter each for who it is about and what they do."""
        words = tokens(text)
        who, act = task.slots["who"], task.slots["act"]
        why = max(overlap(words, why) for why in self.HABITS[who, act])
        return (2 * why + overlap(words, who) + overlap(words, act)) / 4
