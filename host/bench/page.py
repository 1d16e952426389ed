# SPDX-License-Identifier: Apache-2.0
"""A bench as one HTML file that needs nothing else: plots, tables, and a label beside every figure."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Any

from .document import cells
from .energy_page import energy_section
from .figures import LABELS, brief, shown
from .peers import KINDS, peers
from .pieces import called, framed, label, last, table, users_of
from .plots import Bar, Bound, Dot, DotRow, Line, Mark, bars, dots, lines, roofline

__all__ = ["page"]

_MEMORY_STYLES = 3  # in page.css

#: What the parts of a core's cycles are, in the order of the bars.
PHASES = {
    "streaming": "weight beats",
    "memory": "waits for memory",
    "load": "norms in the stream",
    "embed": "embedding row",
    "acts": "activations, tables",
    "drain": "vector unit drains",
    "scalar": "scalar operations",
}


def page(document: dict[str, Any]) -> str:
    """The page of a bench.

    Parameters
    ----------
    document : dict
        As :func:`~nomul.host.bench.session.bench` or :func:`~nomul.host.bench.document.read_document` give it.
    """
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    title = f"{document['model']['name']}: nomul bench"
    parts = [
        _head(document), _cards(document), _roofline(document), _first_token(document), _speeds(document),
        energy_section(document), _cycles(document), _table(document), _memory(document), _peers(), _how(document),
    ]  # fmt: skip
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _head(document: dict[str, Any]) -> str:
    model, core, machine = document["model"], document["core"], document["machine"]
    lanes = document["settings"]["lanes"]
    weights = f"{model['ternary_weights']:,} ternary weights, lm_head included"
    cpu = f"{escape(str(machine['processor']))}, {machine['cores']} cores"
    kinds = {target["key"]: target["name"] for target in document["targets"]}
    if "board" in kinds:
        beside = f" Beside it, in the same run, this machine’s CPU: {cpu}." if len(kinds) > 1 else ""
        core_text = f"{core['kind']} core, {core['trits_per_cycle']} weights a cycle, {lanes} lane{'s' * (lanes > 1)}"
        clock = f"{core['clock_hz'] / 1e6:g} MHz ({escape(core['clock_from'])})"
        told = f"{weights}, on the {escape(kinds['board'])}: {core_text}, {clock}.{beside}"
    else:
        told = f"{weights}, on this machine’s CPU: {cpu}. No board was benched."
    return (
        f"<h1>{escape(model['name'])} on nomul</h1>\n"
        f'<p class="soft">{told} {escape(document["date"][:10])}.</p>\n'
    )


def _called(users: int) -> str:
    return "one user" if users == 1 else f"{users} users"


def _cards(document: dict[str, Any]) -> str:
    found = []

    def card(what: str, number: str, unit: str, more: str, kind: str) -> None:
        found.append(
            f'<div class="card"><div class="what">{escape(what)}</div><div class="number">{escape(number)} '
            f'<small>{escape(unit)}</small></div><div class="more">{escape(more)}</div>{label(kind)}</div>\n'
        )

    target = next((t for t in document["targets"] if t["key"] == "board"), None) or document["targets"][0]
    for users in users_of(target):
        run = last(target, users)
        speed, first = run["figures"]["decode_summed"], run["figures"]["ttft"]
        what = "Generating" if users == 1 else f"Generating, {users} users together"
        card(what, shown(speed["value"]), "tokens/s", target["name"], speed["label"])
        if users == 1:
            number, unit = shown(first["value"], "s").split(" ")
            card("Time to first token", number, unit, f"after a prompt of {run['prompt']}", first["label"])
            prefill = run["figures"]["prefill"]
            size = f"{run['prompt']} tokens"
            card("Prompt", shown(prefill["value"]), "tokens/s", size, prefill["label"])
    run = last(target, users_of(target)[-1])
    if "energy" in run:
        energy = run["energy"]["decode"]["joules_per_token"]
        number, unit = shown(energy["value"], "J").split(" ")
        above = run["energy"]["decode"].get("joules_per_token_above_idle")
        bar = f"{shown(energy['low'], 'J')} to {shown(energy['high'], 'J')}" if "low" in energy else "gross"
        bar += f"; above idle {shown(above['value'], 'J')} ± {shown(above['uncertainty'], 'J')}" if above else ""
        card("Energy of a token", number, unit, bar, energy["label"])
    if "traffic" in run:
        share, speed = run["traffic"]["share_of_peak"], run["traffic"]["bandwidth"]
        of = f"{shown(speed['value'], 'B/s')} of {shown(run['traffic']['peak']['value'], 'B/s')}"
        card("Of the memory’s peak", f"{100 * share['value']:.1f}", "%", of, share["label"])
    return f'<div class="cards">\n{"".join(found)}</div>\n'


def _roofline(document: dict[str, Any]) -> str:
    weights = document["model"]["ternary_weights"]
    marks = [
        Mark(
            x=peer["weights"], y=peer["tokens_per_second"], text=str(number), style=peer["speed_kind"],
            title=f"{peer['name']}, {peer['device']}, {peer['model']}: {peer['tokens_per_second']:g} tokens/s "
            f"({KINDS[peer['speed_kind']]})",
        )
        for number, peer in enumerate(peers(), 1)
    ]  # fmt: skip
    for target in document["targets"]:
        for users in users_of(target):
            speed = last(target, users)["figures"]["decode_summed"]
            name = called(target, users)
            marks.append(Mark(
                x=weights, y=speed["value"], text=f"{name} ({speed['label']})", style=target["key"], ours=True,
                title=f"{name}: {shown(speed['value'])} tokens/s, {speed['label']}",
            ))  # fmt: skip
    bounds = document["roofline"]["bounds"]
    memories = [bound["name"] for bound in bounds if bound["kind"] == "memory"]
    styles = {"own memory": "own", "engine": "engine"}
    drawn = [
        Bound(
            name=bound["name"], weights_per_second=bound["weights_per_second"],
            style=styles.get(bound["kind"]) or f"memory-{memories.index(bound['name']) % _MEMORY_STYLES}",
        )
        for bound in bounds
    ]  # fmt: skip
    told = "; ".join(f"<b>{escape(b['name'])}</b>: {escape(b['what'])}" for b in bounds)
    return (
        "<h2>Tokens a second against model size</h2>\n"
        "<p>Every weight is read once a token, so what streams weights bounds tokens. Lanes share each weight: users "
        "summed may lie above a line, one user never does.</p>\n"
        + framed(
            roofline(drawn, marks, title="Tokens a second against ternary weights, with bounds"),
            f"Bounds ({label('computed')}): {told}. Numbered: others ({label('cited')}), by number in the "
            f'<a href="#others">table below</a>; a full ring is measured by its source (M), dashes simulated (S), dots '
            "estimated (E). Ours, by letter: one user, or all users summed, generating.",
        )
    )


def _first_token(document: dict[str, Any]) -> str:
    series = []
    for target in document["targets"]:
        for users in users_of(target):
            by_length = {}
            for run in target["runs"]:
                if run["users"] == users:
                    by_length[run["prompt"]] = run["figures"]["ttft"]
            points = [(n, f["value"], f["q1"], f["q3"]) for n, f in sorted(by_length.items())]
            name = called(target, users)
            series.append(Line(name=f"{name}", style=f"{target['key']}{' many' * (users > 1)}", points=points))
    labels = " ".join(f"{escape(t['name'])} {label(t['label'])}" for t in document["targets"])
    return "<h2>Time to first token</h2>\n" + framed(
        lines(series, axis="tokens of the prompt", unit="s", title="Time to first token against the prompt’s length"),
        f"From the request until every user has its first token; medians, bars are quartiles. {labels}. On the "
        f"simulated board the link and the host are left out; the table below has the link’s least time.",
    )


def _speeds(document: dict[str, Any]) -> str:
    rows = []
    for target in document["targets"]:
        for users in users_of(target):
            run = last(target, users)
            figures = run["figures"]
            marks = []
            for name, hollow in (("prefill_summed", True), ("decode_summed", False)):
                f = figures[name]
                text = f"{name.split('_')[0]}: {shown(f['value'])} tokens/s ({f['label']})"
                marks.append(Dot(value=f["value"], low=f["q1"] if f["q1"] < f["q3"] else None, high=f["q3"],
                                 style=target["key"], hollow=hollow, title=text))  # fmt: skip
            rows.append(DotRow(
                name=called(target, users), dots=marks,
                small=f"{'summed, ' * (users > 1)}prompt {run['prompt']}, output {run['output']}, {target['label']}",
                text=f"{brief(figures['prefill_summed']['value'])} / {brief(figures['decode_summed']['value'])}",
            ))  # fmt: skip
    return "<h2>Tokens a second here</h2>\n" + framed(
        dots(rows, unit="", axis="tokens a second", title="Prefill and decode speed of each target"),
        "Ring: taking the prompt in. Disc: generating. Right: both figures. Medians, bars are quartiles; lm_head is "
        "part of every token.",
    )


def _cycles(document: dict[str, Any]) -> str:
    made = []
    for target in document["targets"]:
        for users in users_of(target):
            run = last(target, users)
            for part, name in (("prefill", "prompt"), ("decode", "generating")):
                passed = run["samples"][0].get(part)
                if not passed:
                    continue
                parts = [(PHASES.get(key, key), value / passed["rows"]) for key, value in passed["phases"].items()]
                made.append(Bar(name=name, small=f"a step of {_called(users)}", parts=parts))
    if not made:
        return ""
    bound = document["core"].get("bound_cycles")
    caption = (
        f"Average cycles of a step of the core, by its own counters; right: all of them. At "
        f"{document['core']['trits_per_cycle']} weights a cycle no engine takes fewer than "
        f"{bound:,.0f} ({label('computed')})."
    )
    kind = next(t["label"] for t in document["targets"] if t["key"] == "board")
    return f"<h2>Where the cycles go</h2>\n<p>{label(kind)}</p>\n" + framed(
        bars(made, title="Cycles of a step by phase"), caption
    )


def _number(figure: dict[str, Any]) -> str:
    unit = figure["unit"] if figure["unit"] == "s" else ""
    text = escape(shown(figure["value"], unit))
    if figure.get("q1", 0) == figure.get("q3", 0):
        return text
    return f"{text}<small>{escape(shown(figure['q1'], unit))} – {escape(shown(figure['q3'], unit))}</small>"


def _table(document: dict[str, Any]) -> str:
    several = document["settings"]["lanes"] > 1
    rates = ["prefill", *["prefill_summed"] * several, "decode", *["decode_summed"] * several]
    rows = []
    for target, run, _ in cells(document):
        link = run.get("link")
        rows.append([
            escape(target["name"]).replace(" ", "&nbsp;"), label(target["label"]),
            *(str(run[name]) for name in ("users", "prompt", "output")), _number(run["figures"]["ttft"]),
            *(_number(run["figures"][name]) for name in rates), escape(shown(link["value"], "s")) if link else "",
        ])  # fmt: skip
    heads = ["summed" if name.endswith("summed") else name for name in rates]
    header = ["", "", "users", "prompt", "output", "first token", *heads, "link"]
    missing = "".join(
        f"<p class='note'>{escape(part['name'])} was not measured: {escape(part['why'])}.</p>\n"
        for part in document["absent"]
    )
    return (
        f"<h2>All figures</h2>\n<p>Tokens a second{', of one user and summed over users' * several}; medians of "
        f"{document['settings']['repeat']}, quartiles below where they differ. Link: least time of a serial link for "
        f"the prompt and the first token ({label('computed')}, 3 Mbaud), to be added where time is simulated.</p>\n"
        + table(header, rows, range(2, len(header))) + missing
    )  # fmt: skip


def _memory(document: dict[str, Any]) -> str:
    rows = []
    parts: dict[str, Any] = {}
    for _, run, _ in cells(document):
        if "traffic" not in run:
            continue
        t = run["traffic"]
        parts = parts or t
        rows.append([
            str(run["users"]), str(run["prompt"]), str(run["output"]),
            f"{t['bytes_per_token']['value']:,.0f} {label(t['bytes_per_token']['label'])}",
            f"{t['weights_per_token']['value']:,.0f} {label(t['weights_per_token']['label'])}",
            f"{escape(shown(t['bandwidth']['value'], 'B/s'))} {label(t['bandwidth']['label'])}",
            f"{t['share_of_peak']['value']:.1%} of {escape(shown(t['peak']['value'], 'B/s'))}",
        ])  # fmt: skip
    if not rows:
        if document["core"]["kind"] == "on chip":
            return "<h2>Memory</h2>\n<p>Weights lie on the chip: nothing goes through a DRAM.</p>\n"
        return ""
    split = ", ".join(
        f"{escape(name)} {size:,}" for side in ("reads", "writes") for name, size in parts[side].items() if size
    )
    header = ["users", "prompt", "output", "bytes a token", "of these weights", "bandwidth", "share of peak"]
    return (
        "<h2>Memory</h2>\n<p>What generating moves through the memory: bytes follow from the image, the rate is bytes "
        f"over the time above. Peak: {escape(parts['peak']['of'])}.</p>\n"
        + table(header, rows, range(7))
        + f'<p class="note">Bytes of a step of one user: {split}. Besides, at most '
        f"{parts['bytes_per_step']['ahead_most']:,} are fetched behind the program’s end and thrown away.</p>\n"
    )


def _peers() -> str:
    rows = []
    for number, peer in enumerate(peers(), 1):
        joules = peer.get("joules_per_token")
        note = f"<br><span class='note'>{escape(peer['note'])}</span>" if "note" in peer else ""
        rows.append([
            str(number), f"{escape(peer['name'])}{note}", escape(peer["device"]), escape(peer["model"]),
            f"{peer['tokens_per_second']:,g} {peer['speed_kind']}",
            f"{escape(shown(joules, 'J'))} {peer['energy_kind']}" if joules else "", _source(peer["source"]),
        ])  # fmt: skip
    meanings = "; ".join(f"<b>{letter}</b> {meaning}" for letter, meaning in KINDS.items())
    return (
        f'<h2 id="others">Others</h2>\n<p>Figures are the sources’ own, {label("cited")}: {meanings}.</p>\n'
        + table(["", "system", "device", "model", "tokens/s", "J/token", "source"], rows, (0, 4, 5))
    )  # fmt: skip


def _source(source: str) -> str:
    if source.startswith("arXiv:"):
        return f'<a href="https://arxiv.org/abs/{escape(source[6:])}">{escape(source)}</a>'
    text = source if len(source) < 44 else source.split("/")[0]
    return f'<a href="https://{escape(source)}">{escape(text)}</a>'


def _how(document: dict[str, Any]) -> str:
    machine, model, core = document["machine"], document["model"], document["core"]
    targets = "".join(
        f"<dt>{escape(t['name'])}</dt><dd>{label(t['label'])} {escape(t['what'])}</dd>\n" for t in document["targets"]
    )
    labels = "".join(f"<dt>{label(name)}</dt><dd>{escape(what)}</dd>\n" for name, what in LABELS.items())
    facts = {
        "command": f"<code>{escape(document['command'] or 'nomul bench')}</code>",
        "model": f"{escape(model['name'])}, sha256 <code>{escape(model['sha256'])}</code>",
        "design": f"<code>{escape(core['design'] or 'unknown')}</code>",
        "machine": f"{escape(str(machine['processor']))}, {machine['cores']} cores, {escape(machine['platform'])}, "
        f"load {machine['load_before']} before the run",
        "tools": escape(", ".join(f"{name} {version}" for name, version in document["tools"].items())),
        "seed, date": f"{document['seed']}, {escape(document['date'])}",
        "check it": "<code>nomul bench --verify bench.json</code> computes these figures again from the samples, runs "
        "what can be run again and compares",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>\n" for name, text in facts.items())
    return (
        f"<h2>How it was measured</h2>\n<dl>\n{targets}</dl>\n<h2>Labels</h2>\n<dl>\n{labels}</dl>\n"
        f"<h2>This run</h2>\n<dl>\n{listed}</dl>\n"
    )
