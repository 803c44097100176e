"""The entry point: answers `--version` at once, and turns every outcome into an exit code."""

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; `argv` is without the program's name."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    _open_what_is_closed()
    try:
        if arguments in (["--version"], ["-V"]) and _wrote_version():
            return 0
        from metalchat_cli.app import run
    except KeyboardInterrupt:
        return 130
    return run(arguments)


def _wrote_version() -> bool:
    from metalchat_cli import __version__

    try:
        sys.stdout.write(f"metalchat {__version__}\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _open_what_is_closed() -> None:
    # A stream that the caller closed is None, and the next file that is opened would take its number.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nothing, mode, closefd=False))  # noqa: SIM115 - open as long as the process


if __name__ == "__main__":
    sys.exit(main())
