"""The command that plans a run's memory and time on a GPU."""

# No `from __future__ import annotations`: typer would have to evaluate every option's type from text.

from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from itpo.apps.terminal import one_line

Precision = Literal["full", "nf4"]


def plan(
    model: Annotated[str, typer.Option(help="Folder, config.json, or name such as Qwen/Qwen2.5-3B-Instruct")],
    gpu: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Memory of the GPU  [default: what is free of the first]"),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Of the base")] = "nf4",
    rank: Annotated[int | None, typer.Option(help="Of the adapters  [default: 32]")] = None,
    adapters: Annotated[
        int | None, typer.Option(help="Policy and PRM: 2; with a critic: 3  [default: 2]")
    ] = None,
    prompt: Annotated[int | None, typer.Option(help="Tokens  [default: 1024]")] = None,
    response: Annotated[int | None, typer.Option(help="Tokens of all turns  [default: 4096]")] = None,
    turns: Annotated[int | None, typer.Option(help="Of the assistant  [default: 5]")] = None,
    dialogues: Annotated[int | None, typer.Option(help="Of a step  [default: 128]")] = None,
    user_reply: Annotated[
        int | None, typer.Option(help="Tokens of a user's reply where the base plays the user  [default: 0]")
    ] = None,
    judge_reply: Annotated[
        int | None,
        typer.Option(help="Tokens of a judge's reply where the base plays the judge  [default: 0]"),
    ] = None,
    token_budget: Annotated[int | None, typer.Option(help="Instead of the largest that fits")] = None,
    head_chunk: Annotated[int | None, typer.Option(help="Instead of the largest that fits")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Instead of the largest that fits")] = None,
    read_budget: Annotated[int | None, typer.Option(help="Instead of the largest that fits")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few passes on this machine: minutes a step, days a run")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Of the run that --measure tells the days of")] = 560,
) -> int:
    """What a run needs of a GPU, and the settings that fit.

    With --measure also how long it takes.
    """
    from itpo.models import memory

    sizes: dict[str, Any] = dict(rank=rank, adapters=adapters, prompt=prompt, response=response, turns=turns)
    sizes |= dict(dialogues=dialogues, user_reply=user_reply, judge_reply=judge_reply)
    wanted: dict[str, Any] = dict(token_budget=token_budget, head_chunk=head_chunk)
    wanted |= dict(max_rows=max_rows, read_budget=read_budget)
    with one_line(ValueError, OSError):
        work = memory.Work(precision=precision, **_given(sizes))
        shape = memory.find_shape(model)
        room = gpu if gpu is not None else memory.free_gib()
        if room is None:
            raise ValueError("this machine has no GPU: say how much memory that of the run has, --gpu 24")
        settings = replace(memory.choose(shape, work, room), **_given(wanted))
        memory.check(shape, work, settings, room)
        print(memory.report(model, shape, work, settings, room))
        if measure:
            from itpo.models.timing import measure as measured

            print("\n" + measured(shape, work, settings).report(work, settings, steps))
    return 0


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
