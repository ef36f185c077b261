"""Writes the tables of include/moegpt/text/unicode_tables.hpp: python3 make_unicode_tables.py HEADER

General categories L* (letters) and N* (numbers), canonical decompositions and combining classes of Unicode 14 (the
unicodedata module of Python 3.11). ASCII is left out, and so are the syllables of Hangul, which are computed.
"""
import sys
import unicodedata

assert unicodedata.unidata_version == "14.0.0", "Python 3.11 has Unicode 14; found " + unicodedata.unidata_version
characters = range(0x80, 0x110000)


def ranges(value_of):
    """[first, last, value] of the runs of characters with the same value, those without one left out."""
    found = []
    for c in characters:
        value = value_of(chr(c))
        if value and found and found[-1][1] == c - 1 and found[-1][2] == value:
            found[-1][1] = c
        elif value:
            found.append([c, c, value])
    return found


def of_category(letter):
    return ["0x%x, 0x%x" % (first, last) for first, last, _ in ranges(lambda c: unicodedata.category(c)[0] == letter)]


def decompositions():
    for c in characters:
        parts = unicodedata.decomposition(chr(c)).split()
        if parts and parts[0][0] != "<":
            composes = unicodedata.normalize("NFC", chr(c)) == chr(c)
            first, second = [int(part, 16) for part in parts + ["0"]][:2]
            yield "0x%x, 0x%x, 0x%x, %d" % (c, first, second, composes)


def table(declaration, entries):
    lines, line = [], "   "
    for entry in entries:
        entry = " {" + entry + "},"
        if len(line) + len(entry) > 108:
            lines.append(line)
            line = "   "
        line += entry
    return "inline constexpr %s[] = {\n%s\n};\n" % (declaration, "\n".join(lines + [line]))


BEGIN, END = "// Generated from here.\n", "// Generated until here.\n"
header = open(sys.argv[1]).read()
before, after = header.split(BEGIN)[0], header.split(END)[1]
generated = "// clang-format off\n"
generated += table("Range letters", of_category("L")) + table("Range numbers", of_category("N"))
generated += table("Decomposition decompositions", decompositions())
classes = ranges(unicodedata.combining)
generated += table("CombiningClass combining_classes", ["0x%x, 0x%x, %d" % tuple(k) for k in classes])
generated += "// clang-format on\n"
open(sys.argv[1], "w").write(before + BEGIN + generated + END + after)
