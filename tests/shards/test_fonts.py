"""Labels of any script are drawn, or written out: never as boxes."""

from __future__ import annotations

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from shards import fonts
from shards.fonts import fitting


def make_font(path, letters):
    """A font in which each of these letters is a bar, of another width for each."""
    names = {ord(letter): f"letter{number}" for number, letter in enumerate(letters)}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {}
    for number, name in enumerate([".notdef", *names.values()]):
        pen, right = TTGlyphPen(None), 300 + 100 * number
        for step, corner in enumerate(((100, 0), (100, 700), (right, 700), (right, 0))):
            (pen.lineTo if step else pen.moveTo)(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Bars", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_alphabets_of_europe_need_no_font_of_the_machine(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", list)
    for text in ("cats", "Bäume", "été", "кошка", "γάτα"):
        written, font = fitting(text, 15)
        assert written == text
        boxes = {bytes(font.getmask(letter)) for letter in text}
        assert bytes(font.getmask("\U0010fffe")) not in boxes


def test_a_font_of_the_machine_that_has_all_letters_is_found(tmp_path, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    half, whole = make_font(tmp_path / "half.ttf", "猫"), make_font(tmp_path / "whole.ttf", "猫狗")
    monkeypatch.setattr(fonts, "_system_fonts", lambda: [str(tmp_path / "broken.ttf"), half, whole])
    text, font = fitting("猫狗", 15)
    assert (text, font.path) == ("猫狗", whole)


def test_letters_that_no_font_has_are_written_out(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", list)
    assert fitting("é 猫\U00020000", 15)[0] == "é \\u732b\\U00020000"
