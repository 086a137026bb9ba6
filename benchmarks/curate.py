"""Curation on real Wikipedia: rules, signatures, near duplicates, evaluations, whole `tag`.

Beside datatrove, datasketch and rensa in the same run; small by default: it ends in minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from benchmarks.measure import DATA, RESULTS, print_table, write_result
from benchmarks.ngrams import program, run
from benchmarks.planted import judge_personal_data, plant_evaluations
from lmdata.building.output import ALL_DOCUMENTS
from lmdata.ragged import offsets_of
from lmdata.schema import MANIFEST_NAME, Flow, Ledger, manifest_json
from lmdata.tagging.conditions import RECIPES
from lmdata.tagging.evaluations import read_evaluations
from lmdata.tagging.language import Py3langidModel
from lmdata.tagging.manifests import read_tag_manifest, read_tags
from lmdata.tagging.numbers import number_words
from lmdata.tagging.overlap_index import make_index
from lmdata.tagging.rules import measure
from lmdata.tagging.signatures import NUM_BANDS, sign
from lmdata.tagging.variants import measure_dclm, measure_dolma
from lmdata.tagging.words import PlainCutter
from lmdata.writer import ShardWriter

JACCARD, BAND_ROWS, NUM_FILES = 0.8, 8, 4
EVERYTHING = ("--language", "py3langid", "--against", str(DATA / "tasks"))
EDITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
Row = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Run every part, print its rows and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks curate", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=16, help="of Wikipedia")
    parser.add_argument("--peer-documents", type=int, default=60, help="that peers are given")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run; others stay")
    options = parser.parse_args(arguments)
    texts = read_texts(options.megabytes * 1_000_000)
    path = RESULTS / "curate.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only or PARTS:
            rows = PARTS[name](texts, Path(temporary) / name, options.peer_documents)
            print_table(rows)
            print(flush=True)
            kept[name] = {"megabytes": options.megabytes, "rows": rows}
    write_result("curate", {"parts": kept})


def read_texts(num_bytes: int) -> list[str]:
    """Return articles of Wikipedia, as many as make so many bytes."""
    texts, total = [], 0
    for path in sorted((DATA / "wikipedia-en").glob("*.zst")):
        with zstandard.open(path, "rb") as stream:
            for line in io.TextIOWrapper(stream, "utf-8"):
                texts.append(json.loads(line)["text"])
                total += len(texts[-1].encode())
                if total >= num_bytes:
                    return texts
    return texts


def joined(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    parts = [text.encode() for text in texts]
    return np.frombuffer(b"".join(parts), np.uint8), offsets_of([len(part) for part in parts])


def speed(texts: Sequence[str], work: Callable[[], object], num_runs: int = 3) -> Row:
    """Return MB/s by processor time, of the best run, and by the clock, of the median."""
    megabytes, clock, own = sum(len(text.encode()) for text in texts) / 1e6, [], []
    for _ in range(num_runs):
        begun, spent = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - begun)
        own.append(time.process_time() - spent)
    return {
        "text MB": round(megabytes, 2), "MB/s of a core": round(megabytes / min(own), 2),
        "MB/s by the clock": round(megabytes / sorted(clock)[len(clock) // 2], 2),
    }  # fmt: skip


def rules(texts: list[str], _: Path, num_theirs: int) -> list[Row]:
    """All rules of Gopher, C4 and FineWeb, and a new threshold over a million documents."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    content, cutter = joined(texts), PlainCutter()
    measure(*joined(texts[:2]), cutter)
    theirs = texts[:num_theirs]
    peers = [filters.GopherQualityFilter(), filters.GopherRepetitionFilter(),
             filters.C4QualityFilter(), filters.FineWebQualityFilter()]  # fmt: skip

    def by_peer() -> None:
        for peer, text in itertools.product(peers, theirs):
            peer.filter(Document(text=text, id="0"))

    by_peer()
    words = cutter.words(*content)
    halves = [joined(texts[start::2]) for start in (0, 1)]

    def by_two() -> None:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda half: measure(*half, PlainCutter()), halves))

    rows = [
        {"work": "rules, lmdata", **speed(texts, lambda: measure(*content, cutter))},
        {"work": "rules, lmdata, two threads", **speed(texts, by_two)},
        {"work": "gopher@dolma beside", **speed(texts, lambda: measure_dolma(*content, words))},
        {"work": "gopher@dclm beside", **speed(texts, lambda: measure_dclm(*content, words))},
        {"work": "rules, datatrove", **speed(theirs, by_peer, 1)},
    ]
    return rows


def signatures(texts: list[str], _: Path, num_theirs: int) -> list[Row]:
    """Signatures of 112 values; peers are handed the shingles that we made."""
    import rensa
    from datasketch import MinHash

    content = joined(texts)
    own = sign(number_words(*content))
    bounds = own.rows[: num_theirs + 1].tolist()
    shingles = [
        [number.tobytes() for number in own.shingles[a:b]] for a, b in itertools.pairwise(bounds)
    ]
    words = [[part.hex() for part in row] for row in shingles]

    def by_datasketch() -> None:
        for row in shingles:
            MinHash(num_perm=112).update_batch(row)

    def by_rensa() -> None:
        for row in words:
            own = rensa.RMinHash(num_perm=112, seed=1)
            own.update(row)
            own.digest()

    theirs = texts[:num_theirs]
    return [
        {"work": "signatures, lmdata", **speed(texts, lambda: sign(number_words(*content)))},
        {"work": "signatures, datasketch", **speed(theirs, by_datasketch, 1)},
        {"work": "signatures, rensa", **speed(theirs, by_rensa, 1)},
    ]


def evaluations(texts: list[str], _: Path, _theirs: int) -> list[Row]:
    """What comparing with evaluations costs beside the rules and signatures."""
    files = read_evaluations([DATA / "tasks"])
    index = make_index(files)
    content, cutter = joined(texts), PlainCutter()
    words = number_words(*content)
    index.find(words)

    def alone() -> None:
        measure(*content, cutter)
        sign(number_words(*content))

    spent = speed(texts, alone)
    own = speed(texts, lambda: index.find(words))
    more = spent["MB/s of a core"] / own["MB/s of a core"]
    return [
        {"work": "rules and signatures", **spent, "more time": None},
        {"work": f"evaluations, {len(index.places):,} 8-grams", **own, "more time": round(more, 3)},
    ]


# ---- Near duplicates


def near_duplicates(texts: list[str], folder: Path, _: int) -> list[Row]:
    """Planted copies: precision by brute force, recall against the formula of the bands."""
    texts = [text[:4000] for text in texts]
    planted = plant(texts)
    order = random.Random(7).sample(range(len(texts) + len(planted)), len(texts) + len(planted))
    all_texts = [*texts, *planted]
    write_corpus(folder / "corpus", [all_texts[number] for number in order])
    seconds, memory = tag(folder / "corpus", folder / "tags")
    table = read_tags(folder / "tags", read_tag_manifest(folder / "tags"))
    near = np.asarray(table.column("near_duplicate").to_numpy(), bool)
    copies = np.asarray(table.column("duplicate").to_numpy(), bool)
    in_files = [number for file in range(NUM_FILES) for number in order[file::NUM_FILES]]
    sets = shingle_sets([all_texts[number] for number in in_files])
    pairs = similar_pairs(sets)
    removed = np.flatnonzero(near).tolist()
    others = table.column("near_of").to_pylist()
    wrong = sum(jaccard(sets[row], sets[others[row]]) < JACCARD for row in removed)
    gone = near | copies
    found = [bool(gone[a] or gone[b]) for a, b, _ in pairs]
    expected = sum(1 - (1 - similarity**BAND_ROWS) ** NUM_BANDS for _, _, similarity in pairs)
    return [{
        "work": "near duplicates end to end", "documents": len(all_texts),
        "removed": len(removed), "below the threshold": wrong, "pairs at 0.8": len(pairs),
        "found": round(sum(found) / len(pairs), 4),
        "by the formula": round(expected / len(pairs), 4),
        "seconds": round(seconds, 1), "MiB": round(memory),
    }]  # fmt: skip


def plant(texts: list[str]) -> list[str]:
    """Return copies: words changed at random, ends cut off, and a template with other names."""
    choose, planted = random.Random(3), []
    for number, text in enumerate(texts):
        words = text.split(" ")
        ratio = EDITS[number % len(EDITS)]
        edited = [choose.choice(words) if choose.random() < ratio else word for word in words]
        planted.append(" ".join(edited))
        if number % 3 == 0:
            planted.append(text[: int(len(text) * choose.uniform(0.5, 0.99))])
    form = texts[0][:600]
    return planted + [f"{form} The next town. {text[:500]}" for text in texts[1:13]]


def shingle_sets(texts: list[str]) -> list[frozenset[int]]:
    signed = sign(number_words(*joined(texts)))
    return [frozenset(signed.shingles[a:b].tolist()) for a, b in itertools.pairwise(signed.rows)]


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / max(1, len(one | other))


def similar_pairs(sets: list[frozenset[int]]) -> list[tuple[int, int, float]]:
    """Return all pairs from the threshold on, by counting what every two have in common."""
    rows = np.repeat(np.arange(len(sets)), [len(own) for own in sets])
    values = np.fromiter(itertools.chain.from_iterable(sets), np.uint64, len(rows))
    order = np.argsort(values, kind="stable")
    rows, values = rows[order], values[order]
    bounds = np.flatnonzero(np.append(True, np.diff(values) != 0))
    common: Counter[tuple[int, int]] = Counter()
    for a, b in itertools.pairwise([*bounds.tolist(), len(rows)]):
        if b - a > 1:
            common.update(itertools.combinations(sorted(rows[a:b].tolist()), 2))
    pairs = []
    for (a, b), count in common.items():
        similarity = count / (len(sets[a]) + len(sets[b]) - count)
        if similarity >= JACCARD:
            pairs.append((a, b, similarity))
    return pairs


# ---- Whole commands


def write_corpus(folder: Path, texts: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    for number in range(NUM_FILES):
        lines = (json.dumps({"text": text}) + "\n" for text in texts[number::NUM_FILES])
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")


def tag(corpus: Path, output: Path, *options: str, seed: str = "0") -> tuple[float, float]:
    command = [program("lmdata"), "tag", str(corpus), "--output", str(output), "--quiet", *options]
    return run(command, env={**os.environ, "PYTHONHASHSEED": seed})


def whole(texts: list[str], folder: Path, _: int) -> list[Row]:
    """`lmdata tag` with everything on, then another threshold."""
    write_corpus(folder / "corpus", texts)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rows = []
    for name, options in {
        "tag": (),
        "tag, language": ("--language", "py3langid"),
        "tag, evaluations": ("--against", str(DATA / "tasks")),
        "tag, all": EVERYTHING,
    }.items():
        output = folder / name.replace(", ", "-")
        seconds, memory = tag(folder / "corpus", output, *options)
        rows.append({
            "work": name, "text MB": round(megabytes, 1), "seconds": round(seconds, 2),
            "MB/s": round(megabytes / seconds, 2), "MiB": round(memory),
        })  # fmt: skip
    return rows + thresholds(output, folder / "million")


def thresholds(tags: Path, folder: Path) -> list[Row]:
    """`lmdata select` by another threshold over a million documents, as it is typed, five times."""
    write_many(tags, folder / "tags", 1_000_000)
    where = RECIPES["english"] + " and num_words > 80"
    command = [program("lmdata"), "select", str(folder / "tags"), "--where", where, "--quiet",
               "--overwrite", "--output", str(folder / "selection")]  # fmt: skip
    runs, spent = [], []
    for _ in range(5):
        before = os.times()
        runs.append(run(command))
        after = os.times()
        spent.append(sum(after[2:4]) - sum(before[2:4]))
    rows = [{
        "work": "another threshold, 1,000,000 documents, whole command", "text MB": 0.0,
        "seconds": round(sorted(seconds for seconds, _ in runs)[2], 3), "MB/s": None,
        "MiB": round(max(memory for _, memory in runs)),
    }, {
        "work": "the same, processor time", "text MB": 0.0, "seconds": round(min(spent), 3),
        "MB/s": None, "MiB": None,
    }]  # fmt: skip
    return rows


def write_many(tags: Path, folder: Path, num_documents: int) -> None:
    """Write tags again and again until there are so many rows."""
    folder.mkdir(parents=True)
    manifest = read_tag_manifest(tags)
    table = read_tags(tags, manifest)
    many = pa.concat_tables([table] * -(-num_documents // len(table))).slice(0, num_documents)
    writer = ShardWriter(folder, ALL_DOCUMENTS, table.schema)
    for batch in many.to_batches():
        writer.write(batch)
    amounts = {"documents": len(many), "bytes": sum(many.column("num_bytes").to_pylist())}
    flows = {
        name: Flow(read=amount, written={ALL_DOCUMENTS: amount}, dropped={})
        for name, amount in amounts.items()
    }
    whole = dataclasses.replace(
        manifest, splits={ALL_DOCUMENTS: tuple(writer.finish())}, ledger=Ledger(flows=flows)
    )
    (folder / MANIFEST_NAME).write_text(manifest_json(whole), encoding="utf-8")


def memory(texts: list[str], folder: Path, _: int) -> list[Row]:
    """What `lmdata tag` takes with everything on, of an eighth of the text, of all, by the line."""
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    rows = []
    for name, own in {
        "an eighth": texts[: len(texts) // 8], "all": texts, "all, a line a document": lines,
    }.items():  # fmt: skip
        write_corpus(folder / name / "corpus", own)
        seconds, mib = tag(folder / name / "corpus", folder / name / "tags", *EVERYTHING)
        rows.append({
            "work": f"memory, {name}", "documents": len(own),
            "text MB": round(sum(len(text.encode()) for text in own) / 1e6, 1),
            "seconds": round(seconds, 1), "MiB": round(mib),
        })  # fmt: skip
    return rows


def same_bytes(texts: list[str], folder: Path, _: int) -> list[Row]:
    """The same tags from any workers, any hash seed, any order of arguments, after a kill -9."""
    write_corpus(folder / "corpus", [text[:3000] for text in texts[:300]])
    files = sorted(map(str, (folder / "corpus").iterdir()))
    runs = {f"{n} workers": ([*files, "--num-workers", str(n)], "0") for n in (1, 2, 3)}
    runs |= {f"hash seed {n}": ([*files, "--num-workers", "2"], str(n)) for n in range(1, 9)}
    runs["arguments shuffled"] = ([*files[::-1], "--num-workers", "2"], "0")
    found = {}
    for name, (arguments, seed) in runs.items():
        output = folder / name.replace(" ", "-")
        tag(Path(arguments[0]), output, *arguments[1:], seed=seed)
        found[name] = digest(output)
    output = folder / "killed"
    command = [program("lmdata"), "tag", *files, "--output", str(output), "--quiet"]
    for wait_s in (1.5, 2.5):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(wait_s)
        process.kill()
        process.wait()
    subprocess.run(command, check=not (output / "manifest.json").exists(), capture_output=True)
    found["killed twice"] = digest(output)
    first = next(iter(found.values()))
    return [{"work": name, "same bytes": own == first} for name, own in found.items()]


def digest(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.glob("*.*"))]


_PAIRS = (
    "ace:ace afr:af als:sq amh:am arb:ar azj:az bcl:bcl bel:be ben:bn bos:bs bre:br bul:bg "
    "cat:ca ces:cs cmn:zh cym:cy dan:da deu:de dzo:dz ell:el eng:en epo:eo est:et eus:eu "
    "fao:fo fin:fi fra:fr fri:fy gla:gd gle:ga glg:gl gug:gug guj:gu hat:ht hau:ha heb:he "
    "hin:hi hrv:hr hun:hu hye:hy ibo:ig ind:id isl:is ita:it jav:jv jpn:ja kan:kn kat:ka "
    "kaz:kk khk:mn khm:km kin:rw kir:ky kor:ko lao:lo lat:la lav:lv lin:ln lit:lt lnc:oc "
    "ltz:lb lug:lg mal:ml mar:mr mkd:mk mlt:mt mly:ms mya:my nep:ne nld:nl nno:nn nob:no "
    "nso:nso pan:pa pbu:ps pcm:pcm pes:fa plt:mg pol:pl por:pt prv:oc quy:qu quz:qu ron:ro "
    "rus:ru san:sa slk:sk slv:sl sme:se sna:sn som:so sot:st spa:es srp:sr swe:sv swh:sw "
    "tam:ta tat:tt tgk:tg tgl:tl tha:th tuk:tk tur:tr uig:ug ukr:uk urd:ur uzn:uz vec:vec "
    "vie:vi wln:wa xho:xh yor:yo zul:zu"
)
KNOWN = dict(pair.split(":") for pair in _PAIRS.split())
"""Names of files of the declaration, up to a _, and what py3langid calls their language."""


def languages(_: list[str], _folder: Path, _theirs: int) -> list[Row]:
    """The Universal Declaration in 388 languages, told by py3langid, above scores of a floor."""
    model, rows = Py3langidModel(), []
    found = [
        (KNOWN.get(path.stem.split("_")[0]), *model.label(path.read_bytes())[:2])
        for path in sorted((DATA / "adversarial" / "udhr2_utf8").glob("*.txt"))
    ]
    for floor, is_known in itertools.product((0.0, 0.5, 0.9, 0.99), (True, False)):
        own = [(name, label, score) for name, label, score in found if (name is None) != is_known]
        told = [(name, label) for name, label, score in own if score >= floor]
        num_right = sum(name == label for name, label in told)
        rows.append({
            "languages that it": "knows" if is_known else "does not know",
            "score from": floor, "texts": len(own), "told": len(told),
            "abstains %": round(100 * (1 - len(told) / len(own)), 1),
            "right of these %": round(100 * num_right / max(1, len(told)), 1),
        })  # fmt: skip
    return rows


def planted(_: list[str], folder: Path, _theirs: int) -> list[Row]:
    """Texts of evaluations, and phrases, that were planted."""
    return plant_evaluations(folder, tag)


def personal_data(_: list[str], _folder: Path, _theirs: int) -> list[Row]:
    """Personal data in 600 cases."""
    return judge_personal_data()


PARTS: dict[str, Callable[[list[str], Path, int], list[Row]]] = {
    "rules": rules,
    "languages": languages,
    "signatures": signatures,
    "evaluations": evaluations,
    "planted": planted,
    "personal-data": personal_data,
    "near-duplicates": near_duplicates,
    "whole": whole,
    "memory": memory,
    "same-bytes": same_bytes,
}
