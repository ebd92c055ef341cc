"""What one visitor's page may ask for at once, and what becomes of it when the page is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

pytest.importorskip("nicegui", reason="the extra 'web' is not installed")

from busi_monai.errors import ImageReadError
from busi_monai.serving.limits import Limits
from busi_monai.serving.page.turns import PageTurns
from busi_monai.serving.service import PredictionService


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def turns_of(predictor, decoding, said) -> Iterator[Callable[..., PageTurns]]:
    def made(**limits: float) -> PageTurns:
        service = PredictionService(predictor, Limits(**limits), decoding=decoding)
        return PageTurns(service, said.append)

    return made


async def nothing() -> None:
    await asyncio.sleep(0)


def together(turns: PageTurns, number: int, work: Callable[[], Awaitable[None]], **options: int):
    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*[turns.run(work, **options) for _ in range(number)])

    return asyncio.run(all_of_them())


def test_one_thing_after_another(turns_of):
    running = []

    async def alone() -> None:
        running.append(1)
        assert len(running) == 1
        await asyncio.sleep(0.01)
        running.pop()

    assert all(together(turns_of(), 5, alone))


def test_few_wait_and_the_others_are_told(turns_of, said):
    done = together(turns_of(max_files=3), 1000, nothing)
    assert done.count(True) == 3
    assert len(said) == 997 and "3 things are waiting" in said[0]


def test_a_page_has_a_rate(turns_of, said):
    turns = turns_of(per_minute=4)
    assert [together(turns, 1, nothing)[0] for _ in range(6)] == [True] * 4 + [False] * 2
    assert "try again in" in said[0]


def test_bytes_that_wait_are_limited_for_all_pages(turns_of, said):
    done = together(turns_of(max_bytes=100), 8, nothing, size=90)
    assert done.count(True) == 4 and "too much is waiting" in said[0]


def test_a_closed_page_begins_nothing_and_hears_nothing(turns_of, said):
    turns = turns_of()
    begun = []

    async def left_meanwhile() -> None:
        begun.append(1)
        turns.close()
        raise RuntimeError("the element is gone")

    assert together(turns, 5, left_meanwhile) == [False] * 5
    assert begun == [1] and said == []


def test_what_fails_is_told(turns_of, said):
    async def unreadable() -> None:
        raise ImageReadError("damaged")

    assert together(turns_of(), 1, unreadable) == [False]
    assert said == ["damaged"]
