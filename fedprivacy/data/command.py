"""``fedprivacy data``: list, download, verify and generate the datasets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedprivacy import __version__
from fedprivacy.config.composition import compose_cell, hydra_ready
from fedprivacy.config.loading import to_cell_config
from fedprivacy.config.schema import DatasetConf
from fedprivacy.data.download import obtain, real_folder
from fedprivacy.data.files import STAMP_NAME, generated_once
from fedprivacy.data.registry import dataset_names, get_dataset, get_generator, verify_dataset
from fedprivacy.data.sources import SOURCES, Source
from fedprivacy.errors import ConfigError, DataError, FedPrivacyError

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
SIZES = ("demo", "full")
SHOWN_PROBLEMS = 20


def main(argv: list[str]) -> int:
    """Run ``fedprivacy data ARGV``.

    Returns:
        0 done; 1 a download, a check or the files failed; 2 bad arguments or a licence that was
        not accepted; 130 after Ctrl-C.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as error:  # argparse has printed what was wrong, or the help
        return int(error.code or 0)
    try:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except ConfigError as error:
        print(f"fedprivacy data: {error}", file=sys.stderr)
        return REFUSED
    except FedPrivacyError as error:
        print(f"fedprivacy data: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("fedprivacy data: interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedprivacy data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="list|download|verify|generate")
    for name, run, what in (
        ("list", _list, "which datasets there are, and which records are on this machine"),
        ("download", _download, "fetch the real records, once their licence is accepted"),
        ("verify", _verify, "check the records on disk"),
        ("generate", _generate, "make the synthetic stand-in (runs also do so when needed)"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(run=run)
        command.add_argument("--root", type=Path, default=Path("data"), help="dataset.root")
        if name != "list":
            command.add_argument("dataset", choices=dataset_names())
        if name == "download":
            command.add_argument(
                "--accept-license", action="store_true", help="accept the licence, do not ask"
            )
        if name == "verify":
            command.add_argument(
                "--source", choices=("synthetic", "real"), help="default: whatever is there"
            )
        if name == "generate":
            command.add_argument("--size", choices=SIZES, default="full")
            command.add_argument("--source", choices=("synthetic", "real"), default="synthetic")
            command.add_argument(
                "--seed", type=int, help="make a separate copy from this seed, not used by runs"
            )
    return parser


# --------------------------------------------------------------------------- commands


def _list(arguments: argparse.Namespace) -> int:
    rows = [("dataset", "synthetic", "real", "licence (real)", "download", "where")]
    for name in dataset_names():
        source = SOURCES[name]
        real = "ships with scikit-learn" if not source.archives else "no"
        if _has_files(real_folder(arguments.root, name)):
            real = "yes"
        sizes = _generated_sizes(arguments.root, name) if source.archives else ["none exists"]
        where = str(arguments.root / "{synthetic,real}" / name) if source.archives else "-"
        size = _in_words(source.download_bytes) if source.archives else "-"
        rows.append((name, ", ".join(sizes) or "no", real, source.licence.name, size, where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return OK


def _download(arguments: argparse.Namespace) -> int:
    source = SOURCES[arguments.dataset]
    folder = real_folder(arguments.root, source.dataset)
    manual = source.manual.replace("{folder}", str(folder))
    if not source.archives:
        print(manual)
        return OK
    if not (arguments.accept_license or _asked(source)):
        print(
            f"{_terms(source)}\nNothing was downloaded: the licence was not accepted. To accept "
            "it, add --accept-license to the same command.",
            file=sys.stderr,
        )
        return REFUSED
    obtain(source, arguments.root, say=print)
    if manual:
        print(manual)
    return _report(source.dataset, arguments.root, "real")


def _verify(arguments: argparse.Namespace) -> int:
    name, root = arguments.dataset, arguments.root
    if not SOURCES[name].archives:
        return _report(name, root, arguments.source or "real")
    present = [
        source
        for source, there in (
            ("synthetic", bool(_generated_sizes(root, name))),
            ("real", _has_files(real_folder(root, name))),
        )
        if there
    ]
    sources = [arguments.source] if arguments.source else present
    if not sources:
        raise DataError(
            f"no files of {name} in {root}: run `fedprivacy data generate {name}` or "
            f"`fedprivacy data download {name}`, or name the right folder with --root"
        )
    return max(_report(name, root, source) for source in sources)


def _generate(arguments: argparse.Namespace) -> int:
    name, root, size, seed = arguments.dataset, arguments.root, arguments.size, arguments.seed
    if arguments.source != "synthetic":
        fix = f"fedprivacy data download {name}"
        raise ConfigError("--source", arguments.source, "generate makes synthetic records", fix)
    generate = get_generator(name)
    folder = root / "synthetic" / name / size
    if seed is None:
        conf = replace(_shipped_conf(name), source="synthetic", root=str(root), size=size)
        get_dataset(name).prepare(conf)
        print(f"{name}: synthetic records ({size}) in {folder}")
        return OK
    folder = folder.with_name(f"{size}-seed{seed}")
    stamp = {
        "dataset": name,
        "synthetic": True,
        "version": __version__,
        "size": size,
        "seed": seed,
    }
    generated_once(folder, stamp, partial(_fill, generate, size, seed))
    print(
        f"{name}: synthetic records ({size}, seed {seed}) in {folder}; runs use their own seed, "
        f"from {folder.with_name(size)}"
    )
    return OK


# --------------------------------------------------------------------------- pieces


def _shipped_conf(name: str) -> DatasetConf:
    """The dataset's configuration as runs compose it, so that both make the same files."""
    with hydra_ready():
        return to_cell_config(compose_cell([f"dataset={name}"])).dataset


def _fill(generate: Callable[[Path, str, int], None], size: str, seed: int, folder: Path) -> None:
    generate(folder, size, seed)


def _report(name: str, root: Path, source: str) -> int:
    """Verify one source and print what was found."""
    problems = verify_dataset(name, root, source)
    if not problems:
        print(f"{name} ({source}): sound")
        return OK
    shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
    rest = len(problems) - SHOWN_PROBLEMS
    more = f"\n  and {rest} more" if rest > 0 else ""
    print(f"{name} ({source}): {len(problems)} problems\n  {shown}{more}", file=sys.stderr)
    return FAILED


def _terms(source: Source) -> str:
    """The licence and citation, as shown before a download."""
    licence = source.licence
    return (
        f"{source.dataset}: {licence.name} ({licence.url})\n"
        f"  {licence.summary}\n  Cite: {source.citation}"
    )


def _asked(source: Source) -> bool:
    """Whether the user accepts the licence; never asked without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    print(_terms(source))
    try:
        return input("Accept this licence? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _generated_sizes(root: Path, name: str) -> list[str]:
    folder = root / "synthetic" / name
    return [size for size in SIZES if (folder / size / STAMP_NAME).is_file()]


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not child.name.startswith(".") for child in folder.iterdir())


def _in_words(size: int | None) -> str:
    if size is None:
        return "not stated"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
