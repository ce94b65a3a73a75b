"""What the Portuguese leaderboard reads out of a generated answer; every expectation was worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanotron_zagreus.evaluation import filters
from nanotron_zagreus.evaluation.filters import INVALID, find_label, find_letter, find_number, similarity
from nanotron_zagreus.evaluation.transliteration import to_ascii

_YES_NO = ("Sim", "Não")
_SENTIMENTS = ("Positivo", "Neutro", "Negativo")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B ", "B"),
        ("É", "E"),  # the accent comes off before the letter is compared
        ("\n\tC\r", "C"),
        ("a", INVALID),  # small letters are no answer
        ("", INVALID),
        ("   ", INVALID),
        ("não sei", INVALID),
        ("BA", INVALID),  # no word boundary around either letter
        ("F", INVALID),
        ("Letra D", "D"),
        ("alternativa:  C", "C"),
        ("Resposta Correta: B", "B"),
        ("resposta correta e: D", "D"),
        ("A opção C, e não B.", "C"),  # the announcement, "opcao" without accents, wins over "B."
        ("A ou B. Talvez C", "B"),  # a letter with a full stop wins over one that stands earlier
        ("A ou B) talvez C", "B"),  # then one with another mark
        ("A ou B – talvez", "B"),  # a dash is a mark too
        ("É a melhor, A", "A"),  # then the one at the end
        ("E se A fosse", "E"),  # then the first anywhere
        ("A≥B sempre", "A"),  # a sign between letters keeps them apart
        ("C∶ porque", "C"),  # a ratio sign reads as a colon
        ("A™", "A"),  # a trade mark reads "(tm)", which is no letter of the word
        ("A resposta é E porque D.", "D"),  # "resposta e E": the words between keep the announcement from matching
    ],
)
def test_letter_is_found_in_the_leaderboards_order(text: str, letter: str) -> None:
    assert find_letter(text, "ABCDE") == letter


def test_letter_beyond_the_choices_is_no_answer() -> None:
    assert find_letter("E", "ABCD") == INVALID
    assert find_letter("Letra E, ou A", "ABCD") == "A"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Sim", "Sim"),
        ("NÃO", "Não"),
        ("nao", "Não"),
        ("", INVALID),
        (" \n", INVALID),
        ("Sim, pode.", "Sim"),  # one label within the text
        ("assim", "Sim"),  # anywhere within it
        ("Sim e não", "Sim"),  # both labels: the beginning decides, "sim" of "sim e nao"
        ("não, sim", "Não"),  # both labels: cut at the comma, "nao"
        ("talvez", INVALID),  # tal/sim: 0, tal/nao: 1/3
        ("Sin", "Sim"),  # two letters of three
        ("Nem", INVALID),  # nem/nao: 1/3, nem/sim: 1/3
        (". Sim não", INVALID),  # both labels, nothing before the full stop
        ("[não] ou (sim)", INVALID),  # likewise before the bracket
        ("S\u0131m", "Sim"),  # dotless i
    ],
)
def test_label_is_found_in_the_leaderboards_order(text: str, label: str) -> None:
    assert find_label(text, _YES_NO) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positivo", "Positivo"),
        ("Sentimento negativo!", "Negativo"),
        ("Positivo ou Negativo", "Positivo"),
        ("neutra", "Neutro"),  # neutra/neutro: 5/6
        ("negativa", "Negativo"),
        ("Posit", "Positivo"),  # 5/8
        ("neu", "Neutro"),  # exactly one half is enough
        ("ne", INVALID),  # 2/6 and 2/8
    ],
)
def test_sentiment_may_be_misspelt_by_half_its_letters(text: str, label: str) -> None:
    assert find_label(text, _SENTIMENTS) == label


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4,5", 4.5),
        ("4.5", 4.5),
        (" 3,0\n", 3.0),
        ("4 e 3", 5.0),  # 43, clipped
        ("1 2", 5.0),  # 12, clipped
        ("0", 1.0),
        ("0,5", 1.0),
        ("", 5.0),
        ("nenhuma", 5.0),
        ("...", 5.0),
        ("4,", 4.0),
        (",4", 4.0),
        ("3,2,1", 3.21),  # the first point between digits counts, the other goes
        ("2..7", 5.0),  # no point between digits: 27, clipped
        ("-3,5", 3.5),  # there are no negative scores
        ("nota 2,5 de 5,0", 2.55),  # 2.5 and 5.0 run together: 2.5|50
        ("1e3", 5.0),  # the e goes: 13
        ("٣", 5.0),  # digits are 0 to 9
    ],
)
def test_number_is_made_of_all_digits_of_the_text(text: str, number: float) -> None:
    assert find_number(text, lowest=1.0, highest=5.0, fallback=5.0) == pytest.approx(number, abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [("", "", 1.0), ("", "sim", 0.0), ("sim", "sim", 1.0), ("sin", "sim", 2 / 3), ("neu", "neutro", 0.5)],
)
def test_similarity_is_one_minus_the_share_of_edits(one: str, other: str, value: float) -> None:
    assert similarity(one, other) == pytest.approx(value)


@given(st.text(max_size=12), st.text(max_size=12))
def test_similarity_is_symmetric_and_between_0_and_1(one: str, other: str) -> None:
    assert 0.0 <= similarity(one, other) == similarity(other, one) <= 1.0
    assert (similarity(one, other) == 1.0) == (one == other)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Não – é “assim”…", 'Nao - e "assim"...'),
        ("ação", "acao"),
        ("1ª opção: 3½", "1a opcao: 3 1/2"),
        ("🙂", ""),
        ("ℂ − ①", "C - 1"),
        ("Zagreus™ ≤ 3 ≥ 2 ≠ 1", "Zagreus(tm) <= 3 >= 2  1"),
        ("25 ℃, 77 ℉, nº e №", "25 degC, 77 degF, no e No. "),
        ("A∶ B∕C ∗ ∼ ∣", "A: B/C * ~ |"),
        ("R$ 5 = ₹ 1, ₿", "R$ 5 = Rs 1, BTC"),
        ("ᴀ ʙ ᴄ ᴅ ᴇ", "A B C D E"),  # small capitals
        ("🅐 🅴", "(A) [E]"),  # letters in filled circles and squares
        ("Ⓑ 🄲", "B [C]"),
        ("plain", "plain"),
    ],
)
def test_transliteration_keeps_what_a_typewriter_has(text: str, plain: str) -> None:
    assert to_ascii(text) == plain


@given(st.text(max_size=40))
def test_every_text_gives_an_answer_of_its_task(text: str) -> None:
    assert find_letter(text, "ABCD") in {*"ABCD", INVALID}
    assert find_label(text, _YES_NO) in {*_YES_NO, INVALID}
    assert 1.0 <= find_number(text, lowest=1.0, highest=5.0, fallback=5.0) <= 5.0
    assert to_ascii(text).isascii()


def test_filters_have_the_form_that_lm_eval_calls() -> None:
    assert filters.letters_a_to_e([["A", "B."], ["x"]], None) == [["A", "B"], [INVALID]]
    assert filters.similarity_scores([["2,5"]], None) == [[2.5]]
