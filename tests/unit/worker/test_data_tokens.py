"""Tokenizers in folders of Hugging Face's format: what is read there comes back in the results."""

import json

import pytest

from trainwright.api.spec.preparation import TokenizerName, TokenizerSpec
from trainwright_worker.data.tokens import Tokenizer, learn, load_pretrained

CHAT = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    made = learn(TokenizerSpec(), TokenizerName.WORD, iter(["hello good world"]))
    for name, content in made.files().items():
        (tmp_path / name).write_text(content)
    return tmp_path


def read(folder):
    return load_pretrained(TokenizerSpec(), str(folder), "", "spec.dataset.tokenizer.path")


def configure(folder, **entries):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("place", ["file", "configuration", "several"])
def test_the_chat_template_survives_wherever_the_folder_keeps_it(folder, place):
    if place == "file":
        (folder / "chat_template.jinja").write_text(CHAT)
    elif place == "configuration":
        configure(folder, chat_template=CHAT)
    else:
        configure(folder, chat_template=[{"name": "tools", "template": "x"}, {"name": "default", "template": CHAT}])
    saved = Tokenizer.from_json(json.loads(json.dumps(read(folder).to_json())))
    assert saved.files()["chat_template.jinja"] == CHAT


def test_transformers_renders_conversations_with_the_template_of_the_results(folder):
    transformers = pytest.importorskip("transformers")
    (folder / "chat_template.jinja").write_text(CHAT)
    saved = read(folder)
    (folder / "chat_template.jinja").unlink()
    for name, content in saved.files().items():
        (folder / name).write_text(content)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|user|>hello\n<|assistant|>good\n"


def test_a_tokenizer_without_a_chat_template_gets_none(folder):
    found = read(folder)
    assert found.chat_template is None
    assert "chat_template.jinja" not in found.files()
    before = {name: value for name, value in found.to_json().items() if name != "chatTemplate"}
    assert Tokenizer.from_json(before) == found, "checkpoints of earlier versions know nothing of it"
