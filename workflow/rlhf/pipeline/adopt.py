"""Results that this folder's Snakemake has never seen: a fresh clone, a copied ``results/``.

Snakemake knows what made an output from records in ``.snakemake``. Where they are missing it can
only look at modification times, which a copy or a checkout scrambles. Manifests hold the same
facts, so the missing records are written from them: what agrees with the configuration, the code
and its parents stays, and what does not runs again for the reason that Snakemake then gives.
"""

from __future__ import annotations

from pathlib import Path

from rlhf.core.digest import canonical_json, digest_file
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import MANIFEST
from rlhf.provenance.whole import read_whole_manifest


def adopt_results(results: Path, snakemake_folder: Path) -> None:
    """Write Snakemake's records for outputs that have none.

    Args:
        results: folder of all artifacts.
        snakemake_folder: ``.snakemake`` of the working directory.
    """
    paths = sorted(results.rglob(MANIFEST))
    if not paths:
        return
    from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
    from snakemake.persistence.file import FilePersistence

    records = FilePersistence(path=snakemake_folder, nolock=True)
    unknown = [path for path in paths if records._read_record(str(path)) is None]
    if not unknown:
        return
    by_digest = {digest_file(path): path for path in paths}
    for path in unknown:
        try:
            manifest = read_whole_manifest(path)
        except IntegrityError:
            continue  # a rule that needs it says so
        parents = {by_digest.get(digest): digest for digest in manifest["parents"].values()}
        params = [canonical_json(manifest["config"]), manifest["code"], manifest["image"]]
        if None in parents:
            params = ["made from an artifact that is not here"]
        record = MetadataRecord(
            record_format_version=RECORD_FORMAT_VERSION,
            rule=manifest["stage"],
            params=sorted({repr(value) for value in params}),
            input_checksums={str(p): f"sha256:{d}" for p, d in parents.items() if p},
            incomplete=False,
        )
        for output in path.parent.iterdir():  # all that the rule declares, and `run.json`
            records._write_record(str(output), record)
