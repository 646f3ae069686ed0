"""People compare answers, in a web page on this machine; what they say is kept in one file.

    logratio annotate serve --data completions.jsonl --store labels.db --annotators anna,ben

makes pairs of the answers that `logratio sample` wrote (or takes comparisons, without showing their labels),
and prints a link for each person. They judge with single keys: 1 left, 2 right, 0 a tie, 9 both bad, S skip,
F flag, U undo; ? explains. Every verdict is on the disk before the page goes on, so the server may be stopped
or killed at any time: the same command goes on where it ended.

    logratio annotate agreement --store labels.db
    logratio annotate export --store labels.db --out labels

say whether they agree, and write the comparisons to train on. The server listens on this machine alone, and
answers to nobody without a link. Links hold until it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from logratio.annotate.domain.pairs import PairFile, Pairing, read_pairs
from logratio.annotate.domain.queue import Queue, QueueSettings
from logratio.annotate.storage.follow_file import Follower
from logratio.annotate.storage.store import Store
from logratio.annotate.web.auth_tokens import authorities, new_token
from logratio.cli.annotate.pair_rows import settle_pairs
from logratio.cli.annotate.watch import ProgressMonitor, describe_progress
from logratio.data.normalised_names import lookalikes, tidy
from logratio.errors import BadConfig, BadEncoding, FileNotReadable, MissingExtra, TooFewLabels
from logratio.recipes.rows import RowConfig

if TYPE_CHECKING:
    from uvicorn.server import Server

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::", "*", "")
OPENING = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}">'


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Flags of `logratio annotate serve`."""

    store: Path
    """The file that labels are kept in; made if it is not there."""
    data: Path | None = None
    """Answers, as `logratio sample` writes them, or comparisons: JSON Lines or Parquet. May be left away
    where the store has pairs already."""
    annotators: str = "me"
    """Who compares: names with commas between them. Each gets a link of their own."""
    pairs: Pairing = "adjacent"
    """Which pairs of a prompt's answers are compared: neighbours, all, or some at random."""
    pairs_per_prompt: int = 1
    """How many pairs of a prompt's answers --pairs random draws."""
    votes_per_pair: int = 1
    """How many people judge each pair. With 2 or more, agreement can be measured."""
    order: Literal["random", "margin", "file"] = "random"
    """What comes first: any pair, those that a model hardly decides between (margin), or the file's order."""
    random_slice: float = 0.2
    """With --order margin: the share of pairs that come at random, which alone are used in statistics."""
    repeats: float = 0.05
    """Share of pairs that a person is shown again, sides swapped, to see whether they say the same."""
    gold: Path | None = None
    """Comparisons whose chosen answer is known to be right; mixed in to check those who compare."""
    gold_share: float = 0.05
    """Share of what is shown that is from --gold."""
    guidelines: Path | None = None
    """What to go by, in Markdown; the page shows it with G."""
    strength: bool = False
    """Also ask how much better the better answer is."""
    reasons: str = ""
    """Reasons that can be ticked, with commas between them."""
    live: Path | None = None
    """Follow the answers that a sampling run is writing: its --out, or the directory that is in. Pairs are
    added as they come."""
    rows: Annotated[RowConfig, tyro.conf.arg(name="")] = field(default_factory=RowConfig)
    """What becomes of rows of --data and --gold that cannot be used."""
    lease_minutes: float = 10.0
    """For how long a pair is kept for the person who looks at it."""
    seed: int = 0
    """Seed of order and sides."""
    host: str = "127.0.0.1"
    """Where to listen. Any other address lets other machines in, those with a link; nothing is encrypted."""
    port: int = 8734
    """The port; 0 takes a free one."""
    open: bool = True
    """Open the first person's page in a browser, where there is a screen."""


def run(arguments: Arguments) -> int:
    """Serve until Ctrl-C; then say what stands and what to do with it."""
    check_extra()
    names = check_settings(arguments)
    from logratio.annotate.web.http_server import bind, hold

    with ExitStack() as held:
        sockets = bind(arguments.host, arguments.port)
        for listener in sockets:
            held.callback(listener.close)
        held.enter_context(hold(arguments.store))
        store = held.enter_context(Store.create_or_open(arguments.store))
        names = [store.known_as(name) for name in names]
        left_out = fill(store, arguments)
        queue = Queue(store, queue_settings(arguments))
        announce(store, queue, arguments, names, left_out)
        return listen(store, queue, arguments, names, sockets)


# --- before it starts -------------------------------------------------------------------------------


def check_extra() -> None:
    """Say which packages are missing before anything is made."""
    missing = [name for name in ("starlette", "uvicorn", "jinja2", "markdown_it") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the labelling page needs {', '.join(missing)}", action="pip install 'logratio[annotate]'"
        )


def check_settings(arguments: Arguments) -> list[str]:
    """The annotators' names in one form; `BadConfig` where a flag is out of range."""
    names = [tidy(name) for name in split(arguments.annotators)]
    if not names or len(set(names)) < len(names):
        raise BadConfig(
            f"--annotators names {'somebody twice' if names else 'nobody'}",
            where="--annotators",
            action="give names with commas between them, such as anna,ben",
        )
    if arguments.host in EVERYWHERE:
        raise BadConfig(
            f"{arguments.host!r} stands for every address, and no link can name that",
            where="--host",
            action="give the one address or name that people will open",
        )
    for flag, value, least, most in (
        ("--port", arguments.port, 0, 65535),
        ("--votes-per-pair", arguments.votes_per_pair, 1, 1000),
        ("--lease-minutes", arguments.lease_minutes, 0.1, 1440),
        ("--repeats", arguments.repeats, 0, 0.5),
        ("--gold-share", arguments.gold_share, 0, 0.5),
        ("--random-slice", arguments.random_slice, 0.05, 1),
    ):
        if not least <= value <= most:
            raise BadConfig(f"{flag} is {value}", where=flag, action=f"give {least} to {most}")
    return names


def split(text: str) -> list[str]:
    """Words with commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def fill(store: Store, arguments: Arguments) -> Counter[str]:
    """Put the pairs of the files into the store; what was left out, by reason.

    Raises:
        TooFewLabels: there is nothing to compare.
        BadConfig: an order by margin without a margin.
        InputChanged: a file holds something else than when its pairs were added.
    """
    left_out: Counter[str] = Counter()
    if arguments.data is not None:
        file = reader(arguments)(arguments.data)
        settle_pairs(file, arguments.rows)
        store.add_file(str(arguments.data.resolve()), file)
        left_out.update(file.left_out)
    if arguments.gold is not None:
        file = read_pairs(arguments.gold, gold=True)
        settle_pairs(file, arguments.rows)
        store.add_file(str(arguments.gold.resolve()), file)
        left_out.update({f"{reason} (gold)": count for reason, count in file.left_out.items()})
    pairs = store.pairs()
    if not pairs and arguments.live is None:
        raise TooFewLabels(
            "there is no pair to compare" + ("; " + describe_left_out(left_out) if left_out else ""),
            where=str(arguments.data or arguments.store),
            action="give --data with two different answers to a prompt at least, or --live",
        )
    if arguments.order == "margin" and not any(pair.margin is not None for pair in pairs.values()):
        raise BadConfig(
            "--order margin, and no pair has a margin",
            where=str(arguments.data or arguments.store),
            action="give comparisons with a column margin, or with chosen_reward and rejected_reward",
        )
    return left_out


def reader(arguments: Arguments) -> partial[PairFile]:
    """`read_pairs` with the flags' settings."""
    return partial(
        read_pairs,
        pairing=arguments.pairs,
        pairs_per_prompt=arguments.pairs_per_prompt,
        seed=arguments.seed,
    )


def queue_settings(arguments: Arguments) -> QueueSettings:
    """The flags as the queue takes them."""
    return QueueSettings(
        votes_per_pair=arguments.votes_per_pair,
        order=arguments.order,
        random_slice=arguments.random_slice,
        repeats=arguments.repeats,
        gold=arguments.gold_share,
        lease_seconds=60 * arguments.lease_minutes,
        seed=arguments.seed,
    )


def read_guidelines(path: Path | None) -> str | None:
    """The text of the guidelines, without the mark that some editors begin UTF-8 with."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadEncoding(
            "the guidelines are not UTF-8", where=str(path), action="save them as UTF-8"
        ) from error
    except OSError as error:
        raise FileNotReadable(
            error.strerror or str(error), where=str(path), action="check the path and its permissions"
        ) from error


# --- while it runs ----------------------------------------------------------------------------------


def listen(
    store: Store, queue: Queue, arguments: Arguments, names: Sequence[str], sockets: Sequence[socket.socket]
) -> int:
    """Give out links, answer, follow a growing file, and end in order."""
    from logratio.annotate.web.app import AccessSettings, PageSettings, create_app, load_pages
    from logratio.annotate.web.http_server import log_to, make_server, serve

    port = sockets[0].getsockname()[1]
    loopback = arguments.host in THIS_MACHINE
    owner_token = new_token()
    follower = None if arguments.live is None else Follower(arguments.live, reader(arguments))
    monitor = ProgressMonitor(store, queue, names, follower)
    app = create_app(
        store,
        queue,
        access=AccessSettings(
            hosts=authorities(port, host=None if loopback else arguments.host),
            cookie=f"logratio-{port}",
            owner_token=owner_token,
        ),
        pages=load_pages(),
        settings=PageSettings(
            strength=arguments.strength,
            reasons=split(arguments.reasons),
            guidelines=read_guidelines(arguments.guidelines),
            is_growing=arguments.live is not None,
        ),
        on_vote=monitor.note,
    )
    address = f"http://{_authority('127.0.0.1' if loopback else arguments.host)}:{port}"
    links = {name: f"{address}/?t={token}" for name, token in give_tokens(store, names).items()}
    server = make_server(app)
    with log_to(log_path(arguments.store)), ending_on_signals(server) as received:
        # Not before Ctrl-C does what is said of it here.
        show_links(links, owner=f"{address}/?t={owner_token}", arguments=arguments)
        with monitor, opened(next(iter(links.values())), wanted=arguments.open):
            serve(server, sockets)
    print(farewell(store, queue, names, arguments.store), flush=True)
    # Ctrl-C is how this command is meant to end.
    return 128 + signal.SIGTERM if signal.SIGTERM in received else 0


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def log_path(store: Path) -> Path:
    """Where faults of the server itself are written, with their tracebacks; made with the first one."""
    return store.with_name(store.name + ".log")


def give_tokens(store: Store, names: Sequence[str]) -> dict[str, str]:
    """A new token for each person; no token of an earlier start is good any more, whoever's it was."""
    for name in store.annotators():
        if name not in names:
            store.revoke(name)
    return {name: store.add_annotator(name) for name in names}


@contextmanager
def ending_on_signals(server: Server) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the server in order, before, while and after it answers; which came is told."""
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        received.append(number)
        server.should_exit = True

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def opened(link: str, *, wanted: bool) -> Iterator[None]:
    """Open a link in a browser by way of a file, since other users can read a command's arguments."""
    screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not wanted or not screen or not sys.stdout.isatty():
        yield
        return
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "open.html"
        page.touch(mode=0o600)
        page.write_text(OPENING.format(link=link), encoding="utf-8")
        # Not every opener returns at once, and the server has to answer what it opens.
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        yield


# --- what is said -----------------------------------------------------------------------------------


def announce(
    store: Store, queue: Queue, arguments: Arguments, names: Sequence[str], left_out: Mapping[str, int]
) -> None:
    """What there is to compare, and where labels are kept."""
    votes, pairs = store.votes(), store.pairs()
    gold = sum(pair.gold is not None for pair in pairs.values())
    kept = f"; {len(votes)} verdicts stand there already" if votes else ""
    print(f"labels   {arguments.store} (this file alone holds them{kept})")
    each = "one verdict each" if arguments.votes_per_pair == 1 else f"{arguments.votes_per_pair} people each"
    print(
        f"pairs    {len(pairs)}{f' ({gold} of them gold)' if gold else ''}, {each}, order: {arguments.order}"
    )
    if left_out:
        print(f"         left out: {describe_left_out(left_out)}")
    if arguments.live is not None:
        print(f"         more are added as they appear in {arguments.live}")
    for sentence in lookalikes([*names, *store.annotators()]):
        print(f"note     {sentence}")
    if arguments.votes_per_pair > len(names):
        print(
            f"note     {arguments.votes_per_pair} people must judge each pair, and {len(names)} have a link:"
            " no pair is done until others have joined"
        )


def show_links(links: Mapping[str, str], *, owner: str, arguments: Arguments) -> None:
    """The links, and what to do with them."""
    if arguments.host not in THIS_MACHINE:
        print(
            f"\nWARNING  other machines reach this server at {arguments.host}, and nothing is encrypted:\n"
            "         whoever listens in on the network reads the answers and can use the links.\n"
            "         Use it on a network you trust; or leave --host away and let people come by ssh:\n"
            f"         ssh -L {arguments.port}:127.0.0.1:{arguments.port} THIS-MACHINE"
        )
    width = max(len(name) for name in links)
    print("\nEverybody opens the link of their own, and compares. A link is as good as a password:\n")
    for name, link in links.items():
        print(f"  {name:<{width}}  {link}")
    print(f"\nHow far they agree, for you alone:\n\n  {'':<{width}}  {owner}\n")
    print("Links hold until this server ends. Ctrl-C ends it; nothing is lost by that.\n", flush=True)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Reasons and counts in one line."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()) if count)


def farewell(store: Store, queue: Queue, names: Sequence[str], path: Path) -> str:
    """What stands, and what to do with it."""
    num_votes = len(store.votes())
    return (
        f"\nended: {num_votes} verdicts stand in {path}; {describe_progress(store, queue, names)}\n"
        "  to go on      the same command again; everybody gets a new link\n"
        f"  to look       logratio annotate agreement --store {path}\n"
        f"  to train      logratio annotate export --store {path} --out labels"
    )
