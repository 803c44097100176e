"""The entry point: answers `--version` at once, and turns every outcome into an exit code."""

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; `argv` is without the program's name."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        from metalchat_cli import __version__

        sys.stdout.write(f"metalchat {__version__}\n")
        return 0
    from metalchat_cli.app import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
