# SPDX-License-Identifier: Apache-2.0
"""Texts of several users, mixed into lanes in any way."""

from __future__ import annotations

import random
from dataclasses import dataclass

from nomul.sim.streamed import Lane

__all__ = ["Mix", "mixed"]


@dataclass(frozen=True)
class Mix:
    """Steps, and where each user's tokens are in them: ``(step, lane)``, in order."""

    steps: list[list[Lane]]
    places: dict[int, list[tuple[int, int]]]


def mixed(texts: list[list[int]], *, lanes: int, slots: int, rng: random.Random) -> Mix:
    """Puts every token of every text somewhere: one user in many lanes, many users in a step, gaps between.

    A slot is another user's as soon as its user has finished.
    """
    left = {user: list(text) for user, text in enumerate(texts)}
    waiting, free = list(left), list(range(slots))
    rng.shuffle(waiting)
    at_work: dict[int, int] = {}  # slot by user
    begun: set[int] = set()
    places: dict[int, list[tuple[int, int]]] = {user: [] for user in left}
    steps: list[list[Lane]] = []
    while any(left.values()):
        while waiting and free and rng.random() < 0.7:
            at_work[waiting.pop()] = free.pop(rng.randrange(len(free)))
        row = []
        for lane in range(lanes):
            users = [user for user in at_work if left[user]]
            if not users or rng.random() < 0.2:
                row.append(Lane(active=False, slot=rng.randrange(slots), token=0))
                continue
            user = rng.choice(users)
            row.append(
                Lane(token=left[user].pop(0), slot=at_work[user], fresh=user not in begun,
                     logits=rng.random() < 0.5)
            )  # fmt: skip
            begun.add(user)
            places[user].append((len(steps), lane))
        for user in [user for user in at_work if not left[user]]:
            free.append(at_work.pop(user))
        steps.append(row)
    return Mix(steps, places)
