"""What mkdocs does beside its plugins: pictures and links of the repository, the command line."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = (".png", ".jpg")
REPOSITORY = "https://github.com/keras-mobileone/keras-mobileone/blob/main"
# The address of a relative link: behind "](", without a scheme.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
INCLUDED = re.compile(r'--8<-- "([^"]+)"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures of the stored results, which lie outside of docs/."""
    for path in sorted(path for path in RESULTS.rglob("*") if path.suffix in PICTURES):
        source = f"results/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, source, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Includes files of the repository, turns links that leave docs/, writes out the commands."""
    folder = ROOT / "docs" / Path(page.file.src_uri).parent

    def include(match: re.Match) -> str:
        text = (ROOT / match[1]).read_text(encoding="utf-8")
        return LINK.sub(lambda link: f"{REPOSITORY}/{link[1]}", text)

    def turned(match: re.Match) -> str:
        target = Path(os.path.normpath(folder / match[1]))
        if target.is_relative_to(ROOT / "docs"):
            return match[1]
        if target.is_relative_to(RESULTS) and target.suffix in PICTURES:
            inside = ROOT / "docs" / "results" / target.relative_to(RESULTS)
            return Path(os.path.relpath(inside, folder)).as_posix()
        return f"{REPOSITORY}/{target.relative_to(ROOT).as_posix()}"

    markdown = INCLUDED.sub(include, LINK.sub(turned, markdown))
    for marker, written in WRITTEN.items():
        if marker in markdown:
            markdown = markdown.replace(marker, written())
    return markdown


def commands_markdown() -> str:
    """The help of every command, as `--help` prints it."""
    from keras_mobileone.cli.commands import main

    context = click.Context(main, info_name="keras-mobileone", terminal_width=88)
    return "\n\n".join(_sections(main, context))


def formats_table() -> str:
    """The formats of `keras_mobileone.export`."""
    from keras_mobileone.export.formats import formats_markdown

    return formats_markdown()


# What the code itself writes into a page in place of a comment.
WRITTEN = {"<!-- commands -->": commands_markdown, "<!-- formats -->": formats_table}


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    text = command.get_help(context).strip()
    yield f"### {context.command_path}\n\n```text\n{text}\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            yield from _sections(
                child, click.Context(child, parent=context, info_name=name, terminal_width=88)
            )
