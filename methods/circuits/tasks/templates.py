"""The words and sentences that task prompts are made of."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VERSION = 1  # to be raised when anything below changes, since seeds then draw other prompts

NAMES = _words("""
    Adam Alice Andrew Anna Anthony Barbara Ben Carl Carol Charles Chris Claire Daniel David Diana
    Edward Emily Emma Eric Frank George Helen Henry Jack James Jane Jason Jean John Joseph Julia
    Karen Kate Kevin Laura Linda Lisa Lucy Maria Mark Martin Mary Michael Nancy Nick Oliver Oscar
    Paul Peter Philip Rachel Richard Robert Roger Rose Ruth Sam Sarah Simon Steven Susan Thomas
    Tom Victor Walter William
    """)

# No sentence opens with a name, so that every name is read with a space before it.
SENTENCES = (
    "Yesterday {first} and {second} met at the {place}, and {again} handed a {thing} to",
    "When {first} and {second} walked to the {place}, {again} gave a {thing} to",
    "After {first} and {second} had lunch at the {place}, {again} passed a {thing} to",
    "While {first} and {second} waited near the {place}, {again} offered a {thing} to",
    "Later, {first} and {second} sat in the {place}. {again} showed a {thing} to",
    "On Sunday {first} and {second} drove to the {place}, where {again} sold a {thing} to",
    "Because {first} and {second} worked at the {place}, {again} often brought a {thing} to",
    "At noon {first} and {second} reached the {place}. There {again} lent a {thing} to",
    "Once {first} and {second} had found the {place}, {again} threw a {thing} to",
    "Before {first} and {second} left the {place}, {again} promised a {thing} to",
    "In the evening {first} and {second} stayed at the {place}, and {again} read a {thing} to",
    "Last week {first} and {second} argued at the {place}. Then {again} sent a {thing} to",
    "Since {first} and {second} were alone in the {place}, {again} decided to give a {thing} to",
    "This morning {first} and {second} cleaned the {place}, and {again} returned a {thing} to",
    "Long ago {first} and {second} lived by the {place}, and {again} wrote a {thing} to",
)
PLACES = _words("bakery bank beach cafe castle church farm hotel lake museum office river zoo")
THINGS = _words("book card coat flower gift hat lamp letter map note photo poem ticket story")

YEARS = "The {noun} lasted from the year {century}{year} to the year {century}"
NOUNS = _words("""
    alliance blockade conflict crisis debate epidemic famine festival journey mission occupation
    plague protest rebellion revolt search struggle truce uprising winter
    """)
CENTURIES = tuple(range(11, 18))

FUNCTION = '''def {name}(self, {arguments}):
    """{summary}

{documented}    :param'''
DOCUMENTED = "    :param {argument}: {text}\n"
ARGUMENTS = _words("""
    age array base block body cache child class client color count data date event field filter
    format group head image index input key label level limit link map mask model nodes offset order
    output parent point query range rate root row scale shape source start state style table target
    title token type unit vector version weight width
    """)
FILLERS = _words("""
    after before blue common early every fast final first great green human large late light long
    old other plain quick second short small strong third warm water whole wide young
    """)
