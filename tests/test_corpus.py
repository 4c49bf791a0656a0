import ast
import inspect
import json
import re
import shutil
import sysconfig
from pathlib import Path

import pytest

from curate.errors import RecipeError
from curate.runtime.files import hash_bytes, hash_file
from curate.runtime.sealed import read_sealed, write_sealed
from curate.sources.embedded import corpus, distributions, installed_files
from curate.sources.embedded import harvest as harvesting
from curate.sources.embedded.docstrings import strip_docstrings

MEGABYTE = 1_000_000
PROSE = "A sentence that is long enough to count, were it not for the need of a few more. " * 4


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    return corpus.materialise(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def records(info):
    """Domain → the objects of its file, in order."""
    found = {}
    for name in info.domains:
        with (info.directory / f"{name}.jsonl").open("rb") as stream:
            found[name] = [json.loads(line) for line in stream]
    return found


def docstrings_left(code):
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, holders)]
    return [node for node in nodes if ast.get_docstring(node) is not None]


def test_every_domain_is_substantial_and_within_its_limit(info):
    least_bytes = {
        "python_code": 15 * MEGABYTE,
        "docstrings": 2 * MEGABYTE,
        "c_headers": 1 * MEGABYTE,
        "stubs_config": MEGABYTE // 2,
        "manuals": MEGABYTE // 2,
        "licences": MEGABYTE // 10,
    }
    assert list(info.domains) == list(corpus.DOMAINS) == list(least_bytes)
    for name, domain in info.domains.items():
        assert least_bytes[name] <= domain.bytes <= corpus.LIMIT_BYTES[name], name
    assert 20 * MEGABYTE <= sum(domain.bytes for domain in info.domains.values())
    assert info.notes == []


def test_description_agrees_with_the_files(info, records):
    for name, domain in info.domains.items():
        texts = [record["text"] for record in records[name]]
        pieces = [record[key].encode() for record in records[name] for key in ("id", "text")]
        assert domain.documents == len(texts)
        assert domain.bytes == sum(len(text.encode()) for text in texts)
        assert domain.file_bytes == (info.directory / f"{name}.jsonl").stat().st_size
        assert domain.content_hash == hash_bytes(*pieces)


def test_documents_are_sorted_unique_and_not_empty(records):
    everywhere = [record["id"] for name in records for record in records[name]]
    assert len(everywhere) == len(set(everywhere))
    for name, documents in records.items():
        ids = [record["id"] for record in documents]
        texts = [record["text"] for record in documents]
        assert ids == sorted(ids)
        assert len(set(texts)) == len(texts), name
        assert min(len(text.strip()) for text in texts) >= harvesting.SHORTEST_DOCUMENT_CHARACTERS
        assert not any("\0" in text for text in texts)
        # A docstring may spell a carriage return with an escape.
        assert name == "docstrings" or not any("\r" in text for text in texts)


def test_records_say_where_they_come_from(info, records):
    for documents in records.values():
        for record in documents:
            assert list(record) == ["id", "text", "distribution", "version", "licence", "path"]
            assert record["id"].partition("#")[0] == f"{record['distribution']}/{record['path']}"
            if record["distribution"] == "python":
                assert record["version"] == info.python
                assert record["licence"] == "PSF-2.0"
            else:
                assert record["version"] == info.distributions[record["distribution"]]
    licences = {record["distribution"]: record["licence"] for record in records["python_code"]}
    assert "BSD" in licences["numpy"]


def test_code_parses_and_has_no_docstrings(records):
    for record in records["python_code"][::8]:
        assert docstrings_left(record["text"]) == [], record["id"]


def test_docstrings_are_those_of_the_module(records):
    library = Path(sysconfig.get_paths()["stdlib"])
    own = [record for record in records["docstrings"] if record["distribution"] == "python"]
    assert len(own) > 20
    for record in own[::10]:
        tree = ast.parse((library / record["path"]).read_text("utf-8-sig"))
        holders = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        wanted = [ast.get_docstring(tree)]
        wanted += [ast.get_docstring(node) for node in tree.body if isinstance(node, holders)]
        position = 0
        for docstring in filter(None, wanted):
            position = record["text"].index(docstring, position)


def test_code_and_docstrings_share_nothing_but_their_path(records):
    code = {record["id"]: record["text"] for record in records["python_code"]}
    prose = {record["id"].removesuffix("#docstrings"): record for record in records["docstrings"]}
    both = code.keys() & prose.keys()
    assert len(both) > 300
    for document_id in sorted(both)[::20]:
        first = prose[document_id]["text"].split("\n\n")[0]
        assert len(first) < 60 or first not in code[document_id]


def test_help_topics_are_documents(records):
    texts = {record["id"]: record["text"] for record in records["manuals"]}
    page = texts["python/pydoc_data/topics.py#assert"]
    assert page.lstrip().startswith('The "assert" statement')
    assert "\\n" not in page


def test_two_harvests_are_equal_and_a_smaller_one_is_part_of_a_larger(records):
    first = corpus.harvest("python_code", limit_bytes=MEGABYTE)
    second = corpus.harvest("python_code", limit_bytes=MEGABYTE)
    assert first == second
    size = sum(len(document.text.encode()) for document in first)
    assert 0.6 * MEGABYTE < size <= MEGABYTE
    larger = {record["id"]: record["text"] for record in records["python_code"]}
    assert all(larger[document.id] == document.text for document in first)
    for name in ("manuals", "licences"):
        again = [(document.id, document.text) for document in corpus.harvest(name)]
        assert again == [(record["id"], record["text"]) for record in records[name]]


def test_python_alone_gives_ten_megabytes():
    limits = {**corpus.LIMIT_BYTES, "python_code": 10 * MEGABYTE}
    domains = harvesting.harvest_domains({}, {"python_code", "docstrings", "manuals"}, limits)
    origins = {d.metadata["distribution"] for domain in domains.values() for d in domain.documents}
    assert origins == {"python"}
    assert sum(domain.text_bytes for domain in domains.values()) >= 10 * MEGABYTE


def test_materialise_reuses_what_is_there(info):
    before = {path.name: path.stat().st_mtime_ns for path in info.directory.iterdir()}
    assert set(before) == {"corpus.json", *(f"{name}.jsonl" for name in info.domains)}
    assert corpus.materialise(info.directory.parent) == info
    assert before == {path.name: path.stat().st_mtime_ns for path in info.directory.iterdir()}
    assert [path.name for path in info.directory.parent.iterdir()] == [info.key]


def copy_of(info, cache):
    """The corpus as `resolve` would find it in a cache; returns its directory."""
    target = cache / "corpus" / info.key
    shutil.copytree(info.directory, target)
    return target


def test_resolve_gives_the_file_of_a_domain(info, tmp_path):
    target = copy_of(info, tmp_path)
    assert corpus.resolve("corpus://licences", tmp_path) == target / "licences.jsonl"
    assert hash_file(target / "licences.jsonl") == hash_file(info.directory / "licences.jsonl")


@pytest.mark.parametrize(
    "name", ["manuals.jsonl", pytest.param("corpus.json", marks=pytest.mark.slow)]
)
def test_a_damaged_corpus_is_harvested_again(monkeypatch, tmp_path, name):
    monkeypatch.setattr(
        corpus, "LIMIT_BYTES", {name: limit // 20 for name, limit in corpus.LIMIT_BYTES.items()}
    )
    path = corpus.materialise(tmp_path / "corpus").directory / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    notices = []
    corpus.resolve("corpus://licences", tmp_path, notices.append)  # its own file is whole
    assert len(notices) == (name == "corpus.json")
    assert (
        corpus.resolve("corpus://manuals", tmp_path, notices.append)
        == path.parent / "manuals.jsonl"
    )
    assert notices == [f"{path} is damaged: the corpus is harvested again"]
    assert path.read_bytes() == whole


def test_a_domain_without_text_here_is_explained(info, tmp_path):
    target = copy_of(info, tmp_path)
    stored = json.loads(read_sealed(target / "corpus.json"))
    del stored["domains"]["c_headers"]
    write_sealed(target / "corpus.json", json.dumps(stored).encode())
    with pytest.raises(RecipeError, match="has no text for 'c_headers'.*corpus://python_code, "):
        corpus.resolve("corpus://c_headers", tmp_path)


def test_an_unknown_domain_names_the_nearest_and_all(tmp_path):
    with pytest.raises(RecipeError) as caught:
        corpus.resolve("corpus://licenses", tmp_path)
    assert str(caught.value) == (
        "corpus://licenses: no embedded domain is called 'licenses'; did you mean 'licences'? "
        "(known: python_code, docstrings, c_headers, stubs_config, manuals, licences)"
    )
    with pytest.raises(RecipeError, match=r"is called 'zzz' \(known: python_code"):
        corpus.harvest("zzz")
    with pytest.raises(RecipeError, match="'wiki' does not name .* write corpus://<domain>"):
        corpus.resolve("wiki", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "code", "docstrings"),
    [
        ('"""Module."""\nx = 1\n', "x = 1\n", ["Module."]),
        ('"""Module."""\n', "", ["Module."]),
        ('def f():\n    """Only."""\n', "def f():\n    pass\n", ["Only."]),
        ('def f(): "One line."\n', "def f(): pass\n", ["One line."]),
        ('def f(): "a"; return 1\n', "def f(): pass; return 1\n", ["a"]),
        ('def f():\n    "a"; "b"; x = 1\n', "def f():\n    pass; pass; x = 1\n", ["a", "b"]),
        ('def f():\n    "a"\n    "b"\n    x = 1\n', "def f():\n    x = 1\n", ["a", "b"]),
        ('def f():\n    "a"  # why\n    x = 1\n', "def f():\n    # why\n    x = 1\n", ["a"]),
        ('def f():\n    ("a"\n     "b")\n    x = 1\n', "def f():\n    x = 1\n", ["ab"]),
        ('def f():\n    """a\n    é"""; x = "é"\n', 'def f():\n    pass; x = "é"\n', ["a\né"]),
        ('def é(): "é"; "ü"; x = 1\n', "def é(): pass; pass; x = 1\n", ["é", "ü"]),
        (
            'class A:\n    """A.\n\n      b\n    c\n    """\n    x = 1\n    "kept"\n',
            None,
            ["A.\n\n  b\nc"],
        ),
        ('if x:\n    def f():\n        "a"\n        y\n', None, ["a"]),
        ('try:\n    y\nexcept E:\n    async def f():\n        "a"\n        y\n', None, ["a"]),
        ('match x:\n    case 1:\n        class A:\n            "a"\n            y\n', None, ["a"]),
        ('def f():\n    b"a"\n', 'def f():\n    b"a"\n', []),
        ('def f():\n    x = "a"\n    "b"\n', 'def f():\n    x = "a"\n    "b"\n', []),
        ('def f():\n    f"{a}"\n', 'def f():\n    f"{a}"\n', []),
    ],
)
def test_strip_docstrings(source, code, docstrings):
    stripped, found = strip_docstrings(source)
    assert found == docstrings
    assert docstrings_left(stripped) == []
    if code is not None:
        assert stripped == code


def test_what_remains_of_our_own_source_is_the_same_program():
    source = inspect.getsource(harvesting)
    stripped, found = strip_docstrings(source)
    assert found[0].startswith("Turn installed files")
    assert "Add a document unless it is short" in "\n".join(found)

    def shape(code):
        """Syntax of the code without docstrings, nor the `pass` put where there was only one."""
        tree = ast.parse(code)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                expression = (ast.Expr, ast.Pass)
                node.body = [s for s in body if not isinstance(s, expression)]
        return ast.dump(tree)

    assert shape(stripped) == shape(source)
    assert len(stripped) < len(source)


def test_sources_are_dependencies_of_the_project():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    dependencies = re.findall(r'^ +"([a-z0-9-]+)', listed[1], re.MULTILINE)
    assert set(distributions.SOURCES) <= set(dependencies)


def test_only_dependencies_are_read(info):
    assert {"numpy", "pyarrow", "rich", "pygments"} <= set(info.distributions)
    assert not {"polars", "threadpoolctl", "pytest", "hypothesis", "mypy", "torch", "pip"} & set(
        info.distributions
    )


def plant(root, name, files, header=""):
    """Lay out an installed distribution of these files; None: one that does not list its files."""
    folder = root / f"{name}-1.5.dist-info"
    folder.mkdir(parents=True)
    heading = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n{header}"
    (folder / "METADATA").write_text(f"{heading}\n{name}: {PROSE}\n", "utf-8")
    for path, content in (files or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    if files is not None:
        (root / name / "folder.md").mkdir(parents=True)
        listed = [f"{folder.name}/METADATA", *files, f"{name}/folder.md"]
        (folder / "RECORD").write_text("".join(f"{path},,\n" for path in listed), "utf-8")


def test_what_is_taken_of_a_distribution(tmp_path, monkeypatch):
    prose = PROSE.encode()
    files = {
        "planted/guide.md": b"\xef\xbb\xbfGuide\r\n" + prose,
        "planted/copy/guide.md": b"Guide\n" + prose,
        "planted/README": b"read me " + prose,
        "planted/short.md": b"short",
        "planted/latin.md": b"\xe9 " + prose,
        "planted/binary.md": b"\0" + prose,
        "planted/minified.md": prose * 20,
        "planted/long.md": (prose + b"\n") * (harvesting.LONGEST_FILE_BYTES // len(prose)),
        "planted/requirements.txt": b"requirement " + prose,
        "planted/tests/notes.md": b"test " + prose,
        "planted/COPYING": b"copying " + prose,
        "planted/settings.toml": b"# toml " + prose,
        "planted/copying.pyi": b"# stub " + prose,
        "planted/data.csv": b"csv " + prose,
        "planted-1.5.dist-info/licenses/AUTHORS": b"authors " + prose,
        "planted-1.5.dist-info/entry_points.txt": b"entry " + prose,
        "../outside.md": b"outside " + prose,
    }
    plant(tmp_path / "site", "planted", files, "License: MIT\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    installed = distributions.installed(["Planted", "not-installed"])
    wanted = {"manuals", "licences", "stubs_config"}
    domains = harvesting.harvest_domains(installed, wanted, corpus.LIMIT_BYTES)
    planted = {
        document.id.removeprefix("planted/"): document
        for domain in domains.values()
        for document in domain.documents
        if document.metadata["distribution"] == "planted"
    }
    guide = ({"planted/guide.md", "planted/copy/guide.md"} & planted.keys()).pop()
    assert set(planted) == {
        guide,
        "planted-1.5.dist-info/METADATA",
        "planted-1.5.dist-info/licenses/AUTHORS",
        "planted/COPYING",
        "planted/README",
        "planted/copying.pyi",
        "planted/settings.toml",
    }
    assert planted[guide].text == "Guide\n" + PROSE
    assert planted["planted-1.5.dist-info/METADATA"].text == f"planted: {PROSE}\n"
    origin = {"distribution": "planted", "version": "1.5", "licence": "MIT", "path": guide}
    assert planted[guide].metadata == origin
    bare = harvesting.harvest_domains({}, wanted, corpus.LIMIT_BYTES)
    assert domains["manuals"].skipped - bare["manuals"].skipped == {
        "cannot be read": 1,
        "duplicate": 1,
        "file too long": 1,
        "line too long": 1,
        "not UTF-8": 1,
        "not text": 1,
        "too short": 1,
    }


def test_requirements_are_followed_where_their_markers_hold(tmp_path, monkeypatch):
    needs = [
        "Planted.Second[fast]>=1 ; python_version >= '3'",
        "planted-third; extra == 'x'",
        "planted-absent",
        "planted-windows; sys_platform == 'none'",
        "not a requirement (",
    ]
    plant(tmp_path, "planted_first", {}, "".join(f"Requires-Dist: {need}\n" for need in needs))
    plant(tmp_path, "planted_second", None, "Requires-Dist: planted-first\n")
    plant(tmp_path, "planted_third", {})
    plant(tmp_path, "planted_windows", {})
    monkeypatch.syspath_prepend(tmp_path)
    found = distributions.closure(("planted-first",), follow=True)
    assert list(found) == ["planted-first", "planted-second"]
    assert corpus._notes(found, {"manuals": harvesting.HarvestedDomain(0)}) == [
        "manuals: left out, nothing found in Python or the distributions read",
        "planted-second 1.5: lists no files, so it was not read",
    ]


def test_files_that_do_not_parse_are_counted(tmp_path):
    sources = {
        "good.py": f'"""{PROSE}"""\nx = """{PROSE}"""\n',
        "python2.py": f'print "{PROSE}"\n',
        "escape.py": f'x = "\\d {PROSE}"\n',
    }
    candidates = []
    for name, source in sources.items():
        (tmp_path / name).write_text(source, "utf-8")
        candidates.append(
            installed_files.CandidateFile((False, name, name), name, tmp_path / name, {})
        )
    code, docstrings = harvesting.HarvestedDomain(MEGABYTE), harvesting.HarvestedDomain(MEGABYTE)
    harvesting.collect_python(candidates, code, docstrings)
    assert code.skipped == {"does not parse": 2}
    assert [document.text for document in code.documents] == [f'x = """{PROSE}"""\n']
    assert [(d.id, d.text) for d in docstrings.documents] == [("good.py#docstrings", PROSE)]


def test_a_full_domain_takes_no_more():
    domain = harvesting.HarvestedDomain(limit_bytes=1_000)
    for number in range(3):
        domain.add(str(number), f"{number}" * 400, {})
    assert [document.id for document in domain.documents] == ["0", "1"]
    assert (domain.full, domain.text_bytes) == (True, 800)
    domain.add("surrogate", "\ud800" * 400, {})
    domain.add("binary", "\0" + "x" * 400, {})
    domain.add("duplicate", "1" * 400, {})
    domain.add("short", "x" * 100 + " " * 400, {})
    assert domain.skipped == {"not text": 2, "duplicate": 1, "too short": 1}
