# SPDX-License-Identifier: Apache-2.0
"""Conversations: text, files, states, stop strings."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from golden_board import DESIGN, GoldenBoard, Wire, on_chip, streamed
from test_faults import SAMPLER, continued, sampled

from nomul.host.connection import Connection
from nomul.host.conversation import Conversation
from nomul.host.deployment import Deployment
from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.sim.golden import Golden

Place = Callable[[], tuple[Image, Deployment]]


def connection_of(place: Place) -> tuple[Image, GoldenBoard, Connection]:
    image, deployment = place()
    board = GoldenBoard(image, deployment)
    return image, board, Connection(lambda: Wire(board), deployment)


@pytest.mark.parametrize("place", [on_chip, streamed])
def test_turns(place: Place):
    """Text is added and generated in turns; nothing is fed twice."""
    image, board, connection = connection_of(place)
    golden = Golden(image)
    with connection:
        talk = Conversation(connection, [1, 2, 3])
        talk.feed()
        assert board.fed == 2
        talk.feed()
        assert board.fed == 2
        first = list(talk.generate(10))
        assert first == continued(golden, [[1, 2, 3]], 10)[0]
        talk.add([4, 5])
        text = list(talk.tokens)
        assert list(talk.generate(3, sampler=SAMPLER, seed=8)) == sampled(golden, text, 3, 8)
        assert board.fed == len(talk.tokens) - 1


@pytest.mark.parametrize("place", [on_chip, streamed])
def test_the_same_seed_gives_the_same_text(place: Place):
    image, _, connection = connection_of(place)
    with connection:
        texts = [
            list(Conversation(connection, [9]).generate(25, sampler=SAMPLER, seed=number))
            for number in (1, 1, 2)
        ]
    assert texts[0] == texts[1] == sampled(Golden(image), [9], 25, 1)
    assert texts[0] != texts[2]


def test_leaving_early():
    """A sampled text goes on where it was, a greedy one is fed anew."""
    image, board, connection = connection_of(on_chip)
    golden = Golden(image)
    with connection:
        talk = Conversation(connection, [9])
        tokens = talk.generate(100, sampler=SAMPLER)
        list(islice(tokens, 5))
        tokens.close()
        assert list(talk.generate(5)) == continued(golden, [[9, *talk.tokens[1:6]]], 5)[0]
        assert board.fed == 10
        tokens = talk.generate(100)
        found = list(islice(tokens, 5))
        tokens.close()
        assert found == continued(golden, [talk.tokens[:11]], 5)[0]
        text = list(talk.tokens)
        assert len(text) == 16
        assert list(talk.generate(5)) == continued(golden, [text], 5)[0]


def test_others_on_the_same_board_do_no_harm():
    image, _, connection = connection_of(on_chip)
    with connection:
        talks = [Conversation(connection, [k]) for k in (1, 2)]
        for _ in range(3):
            for talk in talks:
                list(talk.generate(4))
            list(connection.board.generate([5], 3))
        for k, talk in enumerate(talks, 1):
            assert talk.tokens[1:] == continued(Golden(image), [[k]], 12)[0]


@pytest.mark.parametrize(("place", "again"), [(on_chip, 13), (streamed, 1 + 1)])
def test_a_file_holds_all_of_it(place: Place, again: int, tmp_path: Path):
    """On chip 13 tokens are fed anew; else the state is put back, which takes a token, and one is fed."""
    image, board, connection = connection_of(place)
    file = tmp_path / "talk"
    with connection:
        talk = Conversation(connection, [3, 1, 4])
        list(talk.generate(10))
        talk.save(file)
        text = list(talk.tokens)
    board.power_cycle()
    with Connection(lambda: Wire(board), connection.deployment) as connection:
        talk = Conversation.restore(file, connection)
        assert talk.tokens == text
        before = board.fed
        (token,) = talk.generate(1)
        assert [token] == continued(Golden(image), [text], 1)[0]
        assert board.fed - before == again
        talk.save(file)
        again_restored = Conversation.restore(file, connection)
        assert again_restored.tokens == [*text, token]
        assert list(again_restored.generate(3)) == continued(Golden(image), [[*text, token]], 3)[0]
    assert list(tmp_path.iterdir()) == [file]


def test_a_saved_state_shortens_recovery(tmp_path: Path):
    image, board, connection = connection_of(streamed)
    with connection:
        talk = Conversation(connection, [3])
        list(talk.generate(50))
        talk.save(tmp_path / "talk")
        list(talk.generate(5))
        board.reset()
        before = board.fed
        list(talk.generate(1))
        assert board.fed - before == 1 + 6
        assert talk.tokens[1:] == continued(Golden(image), [[3]], 56)[0]


def test_another_design_feeds_the_text_anew(tmp_path: Path):
    image, _, connection = connection_of(streamed)
    with connection:
        talk = Conversation(connection, [3])
        list(talk.generate(10))
        talk.save(tmp_path / "talk")
    deployment = replace(connection.deployment, design=b"ANOTHER_")
    board = GoldenBoard(image, deployment)
    board.identity = replace(board.identity, design=b"ANOTHER_")
    with Connection(lambda: Wire(board), deployment) as connection:
        talk = Conversation.restore(tmp_path / "talk", connection)
        list(talk.generate(5))
        assert board.fed == 11 + 4
        assert talk.tokens[1:] == continued(Golden(image), [[3]], 15)[0]


def sealed(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: b"", "is no conversation; name a file that was saved as one"),
        (lambda d: b"{}\n1234", "is no conversation"),
        (lambda d: b"[" * 100_000, "is no conversation"),
        (lambda d: b"\xff" + d, "is no conversation"),
        (lambda d: d[:-1], r"is damaged \(its checksum is wrong\); restore it from a copy"),
        (lambda d: d[:-20] + bytes([d[-20] ^ 1]) + d[-19:], "is damaged"),
        (lambda d: d.replace(b'"version":1', b'"version":2'), "has version 2, this nomul reads 1"),
        (lambda d: sealed(d[:-6]), "has 24 bytes of tokens and state, which its header does not say"),
        (lambda d: sealed(d[:-4].replace(b'"tokens":13', b'"tokens":"x"')), "the header lacks tokens"),
        (lambda d: sealed(d[:-4].replace(b'"fed":0', b'"fed":13')), "has 26 bytes of tokens and state"),
        (lambda d: sealed(d[:-6] + b"\xff\xff"), "token 12 is 65535; it must be 0 to 60"),
    ],
)
def test_files_that_are_none(harm: Callable[[bytes], bytes], message: str, tmp_path: Path):
    _, _, connection = connection_of(on_chip)
    file = tmp_path / "talk"
    with connection:
        talk = Conversation(connection, [3, 1, 4])
        list(talk.generate(10))
        talk.save(file)
        whole = file.read_bytes()
        file.write_bytes(harm(whole))
        assert file.read_bytes() != whole
        with pytest.raises(NomulError, match=message) as caught:
            Conversation.restore(file, connection)
        assert str(file) in str(caught.value) or "65535" in message


def test_every_flipped_bit_of_a_file_is_found(tmp_path: Path):
    _, _, connection = connection_of(streamed)
    file = tmp_path / "talk"
    with connection:
        talk = Conversation(connection, [3, 1, 4])
        list(talk.generate(3))
        talk.save(file)
        whole = file.read_bytes()
        for at in range(0, len(whole), 3):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            with pytest.raises(NomulError):
                Conversation.restore(file, connection)


def test_another_model_is_refused(tmp_path: Path):
    _, _, connection = connection_of(on_chip)
    with connection:
        talk = Conversation(connection, [3])
        talk.save(tmp_path / "talk")
    _, _, other = connection_of(lambda: on_chip(4))
    with other, pytest.raises(NomulError, match=r"talk: belongs to the model [0-9a-f]{16}…, the board has"):
        Conversation.restore(tmp_path / "talk", other)


def test_a_file_that_is_not_there(tmp_path: Path):
    _, _, connection = connection_of(on_chip)
    with connection:
        with pytest.raises(NomulError, match=r"nothing: no such file or directory; check the path"):
            Conversation.restore(tmp_path / "nothing", connection)
        with pytest.raises(NomulError, match=r"nothing/x: no such file or directory"):
            Conversation(connection, [1]).save(tmp_path / "nothing/x")


def test_refuses():
    _, _, connection = connection_of(on_chip)
    with connection:
        with pytest.raises(NomulError, match=r"^conversation: token 1 is 61; it must be 0 to 60$"):
            Conversation(connection, [1, 61])
        with pytest.raises(NomulError, match=r"^conversation: it is empty; add at least one token$"):
            Conversation(connection).generate(1)
        with pytest.raises(NomulError, match=r"^conversation: 0 tokens to generate; it must be at least 1"):
            Conversation(connection, [1]).generate(0)
        connection.board.vocab = 65535
        with pytest.raises(NomulError, match=r"^board: sampling needs the size of the vocabulary"):
            connection.board.sample([1], 1, sampler=SAMPLER)


class Letters:
    """A tokenizer of which every token is a letter or two."""

    end = 60

    def decoder(self) -> Letters:
        return self

    def feed(self, token: int) -> str:
        return chr(ord("A") + token) * (1 + token % 2)

    def finish(self) -> str:
        return "."


def test_text_ends_before_a_stop_string():
    image, _, connection = connection_of(on_chip)
    letters = Letters()
    expected = continued(Golden(image), [[1]], 30)[0]
    text = "".join(map(letters.feed, expected))
    assert letters.end not in expected
    with connection:
        def said(*stop: str) -> tuple[str, int]:
            talk = Conversation(connection, [1])
            return "".join(talk.text(30, letters, stop=stop)), len(talk.tokens) - 1

        assert said() == (text + ".", 30)
        # Across three tokens; the text may hold it earlier too.
        stop = text[9:13]
        at = text.index(stop)
        shown, count = said("\n", stop, "no such text")
        assert shown == text[:at]
        assert len("".join(map(letters.feed, expected[:count]))) >= at + len(stop)
        assert len("".join(map(letters.feed, expected[: count - 1]))) < at + len(stop)
        letters.end = expected[8]
        first = expected.index(letters.end)
        assert said() == ("".join(map(letters.feed, expected[:first])) + ".", first + 1)
        with pytest.raises(NomulError, match=r"^stop string: it is empty"):
            said("")


def test_a_deployment_names_its_model():
    names = {place(number)[1].model for place in (on_chip, streamed) for number in (3, 4)}
    assert len(names) == 4
    assert on_chip()[1].model == on_chip()[1].model
    assert on_chip()[1].design == DESIGN
    assert np.all([len(data) for data in streamed()[1].parts.values()])
