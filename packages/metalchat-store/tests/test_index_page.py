"""Pages of package indexes are data of somebody else."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metalchat_store import IntegrityError, InvalidRepository, NotAModel, RepositoryNotFound
from metalchat_store._answers import AnswerError
from metalchat_store.remotes._index_choice import choose, commit_of, parse_wanted, project_of
from metalchat_store.remotes._index_page import MAX_LINKS, Link, html_links, json_links
from packaging.version import Version

PAGE = "https://index.test/simple/x/"
SHA = "a" * 64


def html(text: str) -> list[Link]:
    return list(html_links(text.encode(), PAGE))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ('<a href="x-1-py3-none-any.whl">', f"{PAGE}x-1-py3-none-any.whl"),
        ("<A HREF='../../f/x-1-py3-none-any.whl#sha256=0'>x</A>", "https://index.test/f/x-1-py3-none-any.whl"),
        ("<a href=/f/x-1-py3-none-any.whl>", "https://index.test/f/x-1-py3-none-any.whl"),
        ('<a href="//files.test/x-1-py3-none-any.whl">', "https://files.test/x-1-py3-none-any.whl"),
        ('<a href="https://files.test/x-1-py3-none-any.whl?a=1&amp;b=2">', "https://files.test/x-1-py3-none-any.whl?a=1&b=2"),
        ('<base href="https://files.test/d/"><a href="x-1-py3-none-any.whl">', "https://files.test/d/x-1-py3-none-any.whl"),
        ('<base href="/d/"><base href="/e/"><a href="x-1-py3-none-any.whl">', "https://index.test/d/x-1-py3-none-any.whl"),
    ],
)  # fmt: skip
def test_links_are_relative_to_the_page_or_its_base(text: str, url: str) -> None:
    (link,) = html(text)
    assert (link.filename, link.url) == ("x-1-py3-none-any.whl", url)


def test_what_a_page_says_about_a_file() -> None:
    (link,) = html(
        f'<a href="x%2Dy-1-py3-none-any.whl#md5=1&amp;sha256={SHA}" data-requires-python="&gt;=3.99" data-yanked '
        'data-core-metadata="sha256=beef">x</a>'
    )
    assert link.filename == "x-y-1-py3-none-any.whl"
    assert (link.sha256, link.yanked, link.metadata) == (SHA, True, "beef")


@pytest.mark.parametrize(
    ("attribute", "metadata"),
    [("", None), ('data-dist-info-metadata="true"', "true"), ('data-core-metadata="false"', None)],
)
def test_metadata_beside_a_file(attribute: str, metadata: str | None) -> None:
    assert html(f'<a href="x.whl" {attribute}>')[0].metadata in (metadata, "" if metadata else None)


@pytest.mark.parametrize(
    "text",
    [
        '<meta name="pypi:repository-version" content="2.0">',
        '<base href="ftp://x/">',
        '<base href="http://files.test/">',
        '<base href="https://u:p@x/">',
        "<![x]]>",
        "<a href=x>" * (MAX_LINKS + 1),
    ],
)
def test_a_page_that_cannot_be_followed(text: str) -> None:
    with pytest.raises(AnswerError):
        html(text)


@given(st.text(alphabet="<>!-[]/&#;=\"'abhrefscriptx \n\0\ud800?", max_size=200))
def test_no_page_raises_anything_else(text: str) -> None:
    try:
        for link in html_links(text.encode("utf-8", "surrogatepass"), PAGE):
            link.url, link.sha256  # noqa: B018 - looking is the test
    except (AnswerError, IntegrityError):
        pass


@pytest.mark.parametrize(
    "piece", ["<!--", "<a ", "<a href='", "<![", "<!x", "<?", "</", "<", "&", "<script>", "<a b=c d ", "<a/", '<a x="']
)
@pytest.mark.timeout(60)  # in quadratic time these would take hours
def test_a_page_is_read_in_linear_time(piece: str) -> None:
    with contextlib.suppress(AnswerError):
        html(piece * ((2 << 20) // len(piece)))


def answer(**file: object) -> dict:
    whole = {"filename": "x.whl", "url": "x.whl", "hashes": {"sha256": SHA}} | file
    return {"meta": {"api-version": "1.9"}, "files": [{key: value for key, value in whole.items() if value != "none"}]}


def test_a_file_in_json() -> None:
    (link,) = json_links(answer(size=7, yanked="why", **{"core-metadata": {"sha256": "beef"}}), PAGE)
    assert (link.url, link.size, link.sha256) == (f"{PAGE}x.whl", 7, SHA)
    assert (link.yanked, link.metadata) == (True, "beef")
    (link,) = json_links(answer(yanked=False, size=None, **{"dist-info-metadata": True}), PAGE)
    assert (link.yanked, link.metadata, link.size) == (False, "", None)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"meta": {}, "files": []},
        {"meta": {"api-version": "2.0"}, "files": []},
        {"meta": {"api-version": "1.0"}, "files": {}},
        {"meta": {"api-version": "1.0"}, "files": [1]},
        {"meta": {"api-version": "1.0"}, "files": [{}] * (MAX_LINKS + 1)},
        answer(filename=5),
        answer(url=None),
        answer(hashes="none"),
        answer(size="7"),
        answer(size=True),
    ],
)
def test_N_10_json_of_the_wrong_shape(value) -> None:
    with pytest.raises(AnswerError):
        list(json_links(value, PAGE))


@pytest.mark.parametrize("digest", [SHA[1:], SHA + "a", SHA.upper(), f"{SHA}\n", "../" + SHA[3:], "０" * 64, ""])
def test_S_1_a_digest_is_64_hexadecimal_digits(digest: str) -> None:
    for link in (*json_links(answer(hashes={"sha256": digest}), PAGE),):
        with pytest.raises(IntegrityError, match="file identity that is not valid"):
            link.sha256  # noqa: B018 - the access is the test


def test_a_missing_sha256_says_what_there_is_instead() -> None:
    (link,) = json_links(answer(hashes={"md5": "x", "sha512": "y", "\x1b[2J": "z"}), PAGE)
    with pytest.raises(IntegrityError, match=r"gives only md5, sha512 to check 'x\.whl' with, and a sha256 is needed"):
        link.sha256  # noqa: B018 - the access is the test


# ---- choosing ----


def offer(*names: str, **facts: object) -> list[Link]:
    return [Link(filename=f"x-{name}.whl", address="", base=PAGE, **facts) for name in names]


def chosen(links: list[Link], version: str | None = None) -> str:
    return choose(parse_wanted("pypi:x", version), links, "here").link.filename


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["1.9-py3-none-any", "1.10-py3-none-any", "1.2-py3-none-any"], "1.10-py3-none-any"),
        (["1.0-py3-none-any", "2.0a1-py3-none-any", "2.0.dev1-py3-none-any"], "1.0-py3-none-any"),
        (["1.0a1-py3-none-any", "1.0rc1-py3-none-any"], "1.0rc1-py3-none-any"),
        (["1.0-py3-none-any", "1.0.post1-py3-none-any"], "1.0.post1-py3-none-any"),
        (["1!0.1-py3-none-any", "9.0-py3-none-any"], "1!0.1-py3-none-any"),
        (["1.0-py3-none-any", "2.0-cp311-cp311-manylinux_2_28_x86_64"], "1.0-py3-none-any"),
        (["1.0-1-py3-none-any", "1.0-2-py3-none-any", "1.0-10-py3-none-any"], "1.0-10-py3-none-any"),
        (["1.0-cp311-none-any", "1.0-py2.py3-none-any"], "1.0-py2.py3-none-any"),
        (["1.0-py3-none-any", "not_a_version-py3-none-any", "3.0-py3-none"], "1.0-py3-none-any"),
    ],
)
def test_the_newest_final_release_for_any_platform(names: list[str], best: str) -> None:
    assert chosen(offer(*names)) == chosen(offer(*reversed(names))) == f"x-{best}.whl"


def test_a_withdrawn_release_is_chosen_by_its_exact_version_only() -> None:
    links = offer("1.0-py3-none-any") + offer("2.0-py3-none-any", yanked=True)
    assert chosen(links) == "x-1.0-py3-none-any.whl"
    assert chosen(links, "2.0") == "x-2.0-py3-none-any.whl"
    with pytest.raises(RepositoryNotFound, match="every release of 'x' at here is withdrawn"):
        chosen(links[1:])


def test_a_version_has_many_spellings() -> None:
    assert chosen(offer("1.0rc1-py3-none-any", "2.0-py3-none-any"), "v1.0.0-RC.1") == "x-1.0rc1-py3-none-any.whl"


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(NotAModel, match=r"found 'x-1\.0\.tar\.gz'; looked for a wheel"):
        chosen([Link(filename="x-1.0.tar.gz", address="", base=PAGE)])
    with pytest.raises(
        NotAModel, match=r"found x-1\.0-cp311-cp311-win_arm64\.whl; looked for a wheel for any platform"
    ):
        chosen(offer("1.0-cp311-cp311-win_arm64"))
    with pytest.raises(RepositoryNotFound, match=r"^here has no wheel of 'x' 3\.0$"):
        chosen(offer("1.0-py3-none-any"), "3.0")


@pytest.mark.timeout(60)
def test_names_with_many_tags_cost_nothing() -> None:
    tags = ".".join("abcdefghij" * 3)
    links = offer(*[f"1.{number}-{tags}-{tags}-{tags}" for number in range(2000)])
    with pytest.raises(NotAModel):
        chosen(links)


@pytest.mark.parametrize("version", ["1.0", "1!2.0.post3+local.4"])
def test_a_commit_asks_for_its_file_again(version: str) -> None:
    wanted = parse_wanted("pypi:x", commit_of(Version(version), SHA))
    assert (wanted.version, wanted.digest) == (Version(version), SHA[:16])


@pytest.mark.parametrize("text", ["x", "9" * 5000, "1.0\x1b[2J", "1.0-sha256-zzzz"])
def test_a_revision_that_is_no_version(text: str) -> None:
    with pytest.raises(InvalidRepository, match="is not the version of a distribution") as caught:
        parse_wanted("pypi:x", text)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("filename", "project"),
    [
        ("Foo_Bar-1.0-py3-none-any.whl", "foo-bar"),
        ("foo.bar-1.0-1-py3-none-any.whl", "foo-bar"),
        ("foo-bar-1.0.tar.gz", "foo-bar"),
        ("foo", None),
        ("-1.0-py3-none-any.whl", None),
    ],
)
def test_the_project_that_a_file_belongs_to(filename: str, project: str | None) -> None:
    assert project_of(filename) == project
