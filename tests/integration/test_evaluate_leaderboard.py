"""The nine Portuguese leaderboard tasks in stock lm-eval: prompts, answers and scores worked out by hand.

A model that answers from a script takes the place of a language model, so that every document's prompt
and every score is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import LEADERBOARD, leaderboard_rows, write_data

from nanotron_zagreus.evaluation.shots import listed_ids

pytest.importorskip("lm_eval")

pytestmark = pytest.mark.integration

NUM_DOCUMENTS = 4

ENEM_PROMPT = """\
As perguntas a seguir são questões de múltipla escolha do Exame Nacional do Ensino Médio (ENEM), selecione a única \
alternativa correta e responda apenas com as letras "A", "B", "C", "D" ou "E".

Pergunta:
O que comprou o menino 1?
Alternativas:
A. o caju
B. a laranja
C. o mamão
D. a uva
E. o limão
Resposta correta: B

Pergunta:
O que comprou o menino 0?
Alternativas:
A. a banana
B. o caju
C. a laranja
D. o mamão
E. a uva
Resposta correta: A

Pergunta:
O que comprou o menino 2?
Alternativas:
A. a laranja
B. o mamão
C. a uva
D. o limão
E. a pera
Resposta correta: C

Pergunta:
O que comprou o menino 9000?
Alternativas:
A. o limão
B. a pera
C. a banana
D. o caju
E. a laranja
Resposta correta:"""

# task: (shots, the prompt's beginning, its end)
PROMPTS = {
    "bluex": (
        3,
        "As perguntas a seguir são questões de múltipla escolha de provas de vestibular de universidades brasileiras, "
        'selecione a única alternativa correta e responda apenas com as letras "A", "B", "C", "D" ou "E".\n\n'
        "Pergunta:\nO que comprou o menino 2?\nAlternativas:\nA. a laranja\n",
        "\nE. a laranja\nResposta correta:",
    ),
    "oab_exams": (
        3,
        "As perguntas a seguir são questões de múltipla escolha do Exame de Ordem da Ordem dos Advogados do Brasil "
        '(OAB), selecione a única alternativa correta e responda apenas com as letras "A", "B", "C" ou "D".\n\n'
        "Questão:\nO que comprou o menino 14?\nAlternativas:\nA. a banana\nB. o caju\nC. a laranja\nD. o mamão\n"
        "Resposta correta: C\n\nQuestão:\nO que comprou o menino 13?",
        "D. o caju\nResposta correta:",
    ),
    "assin2_rte": (
        15,
        "Abaixo estão pares de premissa e hipótese. Para cada par, indique se a hipótese pode ser inferida a partir da "
        'premissa, responda apenas com "Sim" ou "Não".\n\n'
        "Premissa: O menino 1 comprou o caju no quintal.\nHipótese: O menino 2 comprou a laranja na cozinha.\n"
        "Pergunta: A hipótese pode ser inferida pela premissa? Sim ou Não?\nResposta: Sim\n\n"
        "Premissa: O menino 3251 comprou o mamão no quintal.\n",
        "Premissa: O menino 9000 comprou o limão na feira.\nHipótese: O menino 9001 comprou a pera no quintal.\n"
        "Pergunta: A hipótese pode ser inferida pela premissa? Sim ou Não?\nResposta:",
    ),
    "assin2_sts": (
        15,
        "Abaixo estão pares de frases que você deve avaliar o grau de similaridade. Dê uma pontuação entre 1,0 e 5,0, "
        "sendo 1,0 pouco similar e 5,0 muito similar.\n\n"
        "Frase 1: O menino 1 comprou o caju no quintal.\nFrase 2: O menino 2 comprou a laranja na cozinha.\n"
        "Pergunta: Quão similares são as duas frases? Dê uma pontuação entre 1,0 a 5,0.\nResposta: 1,5\n\n",
        "Frase 1: O menino 9000 comprou o limão na feira.\nFrase 2: O menino 9001 comprou a pera no quintal.\n"
        "Pergunta: Quão similares são as duas frases? Dê uma pontuação entre 1,0 a 5,0.\nResposta:",
    ),
    "faquad_nli": (
        15,
        "Abaixo estão pares de pergunta e resposta. Para cada par, você deve julgar se a resposta responde à pergunta "
        'de maneira satisfatória e aparenta estar correta. Escreva apenas "Sim" ou "Não".\n\n'
        "Pergunta: Onde está o menino 1893?\nResposta: O menino 1893 comprou o mamão no mercado.\n"
        "A resposta dada satisfaz à pergunta? Sim ou Não? Sim\n\nPergunta: Onde está o menino 949?\n",
        "Pergunta: Onde está o menino 9000?\nResposta: O menino 9000 comprou o limão na feira.\n"
        "A resposta dada satisfaz à pergunta? Sim ou Não?",
    ),
    "hatebr_offensive": (
        25,
        "Abaixo contém o texto de comentários de usuários do Instagram em português, sua tarefa é classificar se o "
        'texto é ofensivo ou não. Responda apenas com "Sim" ou "Não".\n\n'
        "Texto: O menino 48 comprou a pera no mercado.\nPergunta: O texto é ofensivo?\nResposta: Não\n\n"
        "Texto: O menino 44 comprou ",
        "Texto: O menino 9000 comprou o limão na feira.\nPergunta: O texto é ofensivo?\nResposta:",
    ),
    "portuguese_hate_speech": (
        25,
        "Abaixo contém o texto de tweets de usuários do Twitter em português, sua tarefa é classificar se o texto "
        'contém discurso de ódio ou não. Responda apenas com "Sim" ou "Não".\n\n'
        "Texto: O menino 52 comprou o mamão na cozinha.\nPergunta: O texto contém discurso de ódio?\nResposta: Não\n\n"
        "Texto: O menino 50 comprou ",
        "Texto: O menino 9000 comprou o limão na feira.\nPergunta: O texto contém discurso de ódio?\nResposta:",
    ),
    "tweetsentbr": (
        25,
        "Abaixo contém o texto de tweets de usuários do Twitter em português, sua tarefa é classificar se o sentimento "
        "do texto é Positivo, Neutro ou Negativo. Responda apenas com uma das opções.\n\n"
        "Texto: O menino 0 comprou a banana na feira.\n"
        "Pergunta: O sentimento do texto é Positivo, Neutro ou Negativo?\nResposta: Positivo\n\n"
        "Texto: O menino 1 comprou o caju no quintal.\n"
        "Pergunta: O sentimento do texto é Positivo, Neutro ou Negativo?\nResposta: Negativo\n\n",
        "Texto: O menino 9000 comprou o limão na feira.\n"
        "Pergunta: O sentimento do texto é Positivo, Neutro ou Negativo?\nResposta:",
    ),
}

# task: (targets, generated texts, what is read out of them, scores)
ANSWERS: dict[str, tuple[list[str], list[str], list[Any], dict[str, float]]] = {
    "enem_challenge": (
        ["A", "B", "C", "D"], ["A", "Letra B.", "talvez", "E"], ["A", "B", "[invalid]", "E"], {"acc": 2 / 4}
    ),
    "bluex": (
        ["A", "B", "C", "D"], ["", "Alternativa B", "A ou C.", "D"], ["[invalid]", "B", "C", "D"], {"acc": 3 / 4}
    ),
    "oab_exams": (
        ["A", "B", "C", "D"], ["A)", "B", "E", "d"], ["A", "B", "[invalid]", "[invalid]"], {"acc": 2 / 4}
    ),
    # Não: 1 hit, 2 gold, 1 answer: 2/3. Sim: 1 hit, 2 gold, 2 answers: 2/4.
    "assin2_rte": (
        ["Não", "Sim", "Não", "Sim"], ["Não", "sim", "Sim e não", "talvez"], ["Não", "Sim", "Sim", "[invalid]"],
        {"f1_macro": (2 / 3 + 2 / 4) / 2, "acc": 2 / 4},
    ),
    # deviations -.75 -.25 .25 .75 and -2.25 -1.25 1.75 1.75: 3.75 / sqrt(1.25 x 12.75)
    "assin2_sts": (
        ["1,0", "1,5", "2,0", "2,5"], ["1,0", "2,0", "4 e 3", "nada"], [1.0, 2.0, 5.0, 5.0],
        {"pearson": 3.75 / (1.25 * 12.75) ** 0.5, "mse": (0.25 + 9 + 6.25) / 4},
    ),
    "faquad_nli": (
        ["Não", "Sim", "Não", "Sim"], ["Sim", "Sim.", "Nao", "Não"], ["Sim", "Sim", "Não", "Não"],
        {"f1_macro": 2 / 4, "acc": 2 / 4},
    ),
    "hatebr_offensive": (
        ["Não", "Sim", "Não", "Sim"], ["não", "SIM", "Não!", "Sim"], ["Não", "Sim", "Não", "Sim"],
        {"f1_macro": 1.0, "acc": 1.0},
    ),
    # Não: no hit. Sim: 2 hits, 2 gold, 4 answers: 4/6.
    "portuguese_hate_speech": (
        ["Não", "Sim", "Não", "Sim"], ["Sim"] * 4, ["Sim"] * 4, {"f1_macro": (0 + 4 / 6) / 2, "acc": 2 / 4}
    ),
    # Positivo: 1 hit, 2 gold, 2 answers: 1/2. Negativo: 1. Neutro: 0.
    "tweetsentbr": (
        ["Positivo", "Negativo", "Neutro", "Positivo"], ["Positivo", "negativa", "Positivo ou Negativo", "neu"],
        ["Positivo", "Negativo", "Positivo", "Neutro"], {"f1_macro": (1 / 2 + 1 + 0) / 3, "acc": 2 / 4},
    ),
}  # fmt: skip


def exam(word: str) -> Callable[[dict[str, Any]], str]:
    """Return what writes an exam's question after ``word``."""

    def write(doc: dict[str, Any]) -> str:
        pairs = zip(doc["choices"]["label"], doc["choices"]["text"], strict=True)
        choices = "".join(f"{label}. {text}\n" for label, text in pairs)
        return f"{word}:\n{doc['question']}\nAlternativas:\n{choices}Resposta correta:"

    return write


# task: (its question without Jinja, its answer in a shot, where its shots stand, their list)
WORDING: dict[str, tuple[Callable[[Any], str], Callable[[Any], str], str, str | None]] = {
    "enem_challenge": (exam("Pergunta"), lambda d: d["answerKey"], "eduagarcia/enem_challenge", "enem"),
    "bluex": (exam("Pergunta"), lambda d: d["answerKey"], "eduagarcia-temp/BLUEX_without_images", "bluex"),
    "oab_exams": (exam("Questão"), lambda d: d["answerKey"], "eduagarcia/oab_exams", "oab"),
    "assin2_rte": (
        lambda d: f"Premissa: {d['premise']}\nHipótese: {d['hypothesis']}\n"
        "Pergunta: A hipótese pode ser inferida pela premissa? Sim ou Não?\nResposta:",
        lambda d: "Sim" if d["entailment_judgment"] else "Não", "nilc-nlp/assin2", "assin2",
    ),
    "assin2_sts": (
        lambda d: f"Frase 1: {d['premise']}\nFrase 2: {d['hypothesis']}\n"
        "Pergunta: Quão similares são as duas frases? Dê uma pontuação entre 1,0 a 5,0.\nResposta:",
        lambda d: str(d["relatedness_score"]).replace(".", ","), "nilc-nlp/assin2", "assin2",
    ),
    "faquad_nli": (
        lambda d: f"Pergunta: {d['question']}\nResposta: {d['answer']}\n"
        "A resposta dada satisfaz à pergunta? Sim ou Não?",
        lambda d: "Sim" if d["label"] else "Não", "ruanchaves/faquad-nli", "faquad",
    ),
    "hatebr_offensive": (
        lambda d: f"Texto: {d['sentence']}\nPergunta: O texto é ofensivo?\nResposta:",
        lambda d: "Sim" if d["label"] else "Não", "eduagarcia/portuguese_benchmark/HateBR_offensive_binary", "hatebr",
    ),
    "portuguese_hate_speech": (
        lambda d: f"Texto: {d['sentence']}\nPergunta: O texto contém discurso de ódio?\nResposta:",
        lambda d: "Sim" if d["label"] else "Não",
        "eduagarcia/portuguese_benchmark/Portuguese_Hate_Speech_binary", "hate_speech",
    ),
    "tweetsentbr": (
        lambda d: f"Texto: {d['sentence']}\n"
        "Pergunta: O sentimento do texto é Positivo, Neutro ou Negativo?\nResposta:",
        lambda d: {"Positive": "Positivo", "Negative": "Negativo", "Neutral": "Neutro"}[d["label"]],
        "eduagarcia/tweetsentbr_fewshot", None,
    ),
}  # fmt: skip


def shown(dataset: str, listed: str | None, num_shots: int) -> list[dict[str, Any]]:
    """Return the rows shown as examples, found by their ids."""
    rows = leaderboard_rows(NUM_DOCUMENTS)[dataset, "train"]
    if listed is None:
        return rows[:num_shots]
    if listed == "faquad":  # rows are listed by their number
        return [rows[number] for number in listed_ids(listed)[:num_shots]]
    column = {"assin2": "sentence_pair_id", "hatebr": "idx", "hate_speech": "idx"}.get(listed, "id")
    return [next(row for row in rows if row[column] == value) for value in listed_ids(listed)[:num_shots]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What lm-eval makes of the nine tasks when the model answers from the script."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate

    from nanotron_zagreus.evaluation.task_sources import index_tasks, load_tasks

    class ScriptedModel(LM):
        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

        def generate_until(self, requests: Any) -> list[str]:
            return [ANSWERS[request.task_name][1][request.doc_id] for request in requests]

    data = write_data(tmp_path_factory.mktemp("data"), leaderboard_rows(NUM_DOCUMENTS))
    tasks = load_tasks(index_tasks(["leaderboard_pt"]), LEADERBOARD, data)
    found: Any = evaluate(lm=ScriptedModel(), task_dict={"tasks": tasks}, bootstrap_iters=0)
    return found


def test_the_enem_prompt_is_the_leaderboards_letter_by_letter(results: dict[str, Any]) -> None:
    prompt, options = results["samples"]["enem_challenge"][0]["arguments"][0]
    assert prompt == ENEM_PROMPT
    assert options["until"] == ["\n\n"] and options["max_gen_toks"] == 1536 and options["do_sample"] is False


@pytest.mark.parametrize("task", PROMPTS)
def test_prompts_show_the_listed_examples_in_their_order(results: dict[str, Any], task: str) -> None:
    num_shots, begin, end = PROMPTS[task]
    prompt = results["samples"][task][0]["arguments"][0][0]
    assert prompt.startswith(begin)
    assert prompt.endswith("\n\n" + end) or prompt.endswith(end)
    assert prompt.count("\n\n") == num_shots + 1  # the description, then every example, end in a blank line
    assert results["n-shot"][task] == num_shots


@pytest.mark.parametrize("task", WORDING)
def test_every_documents_prompt_is_description_shots_and_question(results: dict[str, Any], task: str) -> None:
    question, answer, dataset, listed = WORDING[task]
    num_shots, begin, _ = PROMPTS.get(task, (3, ENEM_PROMPT, ""))
    shots = "".join(f"{question(row)} {answer(row)}\n\n" for row in shown(dataset, listed, num_shots))
    samples = results["samples"][task]
    assert len(samples) == NUM_DOCUMENTS
    for sample in samples:
        expected = begin.partition("\n\n")[0] + "\n\n" + shots + question(sample["doc"])
        assert sample["arguments"][0][0] == expected


@pytest.mark.parametrize("task", ANSWERS)
def test_answers_and_scores_are_those_worked_out_by_hand(results: dict[str, Any], task: str) -> None:
    targets, _, answers, scores = ANSWERS[task]
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    assert [sample["target"] for sample in samples] == targets
    assert [sample["filtered_resps"][0] for sample in samples] == answers
    for metric, value in scores.items():
        # floating-point sums of at most four terms
        assert results["results"][task][f"{metric},all"] == pytest.approx(value, abs=1e-12)


def test_no_listed_example_is_evaluated(results: dict[str, Any]) -> None:
    for task in ("enem_challenge", "bluex", "oab_exams"):
        assert {sample["doc"]["id"].rpartition("_")[2] for sample in results["samples"][task]} == {
            "9000", "9001", "9002", "9003"
        }  # fmt: skip


def test_shipped_task_files_agree_with_each_other(results: dict[str, Any]) -> None:
    from nanotron_zagreus.evaluation.task_sources import TASKS_FOLDER, index_tasks, task_names

    assert task_names(index_tasks(["leaderboard_pt"]), ["leaderboard_pt"]) == sorted(LEADERBOARD)
    lists = json.loads((TASKS_FOLDER / "leaderboard_pt" / "examples.json").read_text(encoding="utf-8"))
    lengths = {name: len(values["ids"]) for name, values in lists.items()}
    assert lengths == {
        "enem": 3, "bluex": 5, "oab": 15, "assin2": 50, "faquad": 50, "hatebr": 50, "hate_speech": 50
    }  # fmt: skip
    assert results["versions"]["oab_exams"] == 1.5
    assert Path(TASKS_FOLDER).is_dir()
