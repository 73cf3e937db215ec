"""The rows over files, one operation at a time."""

from __future__ import annotations

from bench.plan import Plan
from bench.registry import NEWEST, NO_HOP, OBSTORE, ONE_HOP, OPENDAL, OURS, SEED, entrants
from bench.row import BEST_PEER, Entrant, Goal, Row, at_1_gib, speed_at_least

TREE_KEYS = 100_000
THROUGH_THREAD = Entrant(OURS, "starfish, inline_reads=False", inline_reads=False)
ALL = entrants(OURS, SEED, OBSTORE, OPENDAL, ONE_HOP, NO_HOP)
COPIERS = entrants(OURS, OBSTORE, ONE_HOP)
READERS = (*entrants(OURS), THROUGH_THREAD, *entrants(SEED, OBSTORE, OPENDAL, ONE_HOP, NO_HOP))

OPEN = Row(
    name="file-open-256m",
    title="File open, 256 MiB copied to another file",
    sentence="256 MiB read chunk by chunk and written to a file; the floor is `shutil.copyfile` in a thread.",
    unit="MB/s",
    place="files",
    plan=Plan(workload="copy_out", size=256 * 2**20),
    entrants=COPIERS,
    goals=(speed_at_least(0.9, ONE_HOP.name), Goal(16, metric="memory")),
    filled_by="entrant",
    shows_memory=True,
)
UPLOAD = Row(
    name="file-upload-256m",
    title="File upload, 256 MiB copied from another file",
    sentence="256 MiB uploaded in chunks of 1 MiB, no fsync; the floor is `shutil.copyfile` in a thread.",
    unit="MB/s",
    place="files",
    plan=Plan(workload="copy_in", size=256 * 2**20),
    entrants=COPIERS,
    goals=(speed_at_least(0.9, ONE_HOP.name), Goal(16, metric="memory")),
    shows_memory=True,
)
ROWS = (
    Row(
        name="file-get",
        title="File get 1 KiB, warm",
        sentence="Gets of 1 KiB, one after another, from files that are in the page cache.",
        unit="op/s",
        place="files",
        plan=Plan(workload="get_in_turn", objects=500, seconds=0.4),
        entrants=(*READERS, *entrants(NEWEST)),
        goals=(speed_at_least(25, ONE_HOP.name), speed_at_least(15, OBSTORE.name)),
        filled_by="entrant",
    ),
    Row(
        name="file-get-cold",
        title="File get 1 KiB, cold",
        sentence="The same gets from files whose pages were dropped from the page cache first.",
        unit="op/s",
        place="files",
        plan=Plan(workload="get_cold", objects=300),
        entrants=READERS,
        goals=(speed_at_least(1.1, ONE_HOP.name),),
        filled_by="entrant",
    ),
    Row(
        name="file-put",
        title="File put 1 KiB, no fsync",
        sentence="Puts of 1 KiB to new keys, one after another, each through a temporary file and a rename.",
        unit="op/s",
        place="files",
        plan=Plan(workload="put_in_turn", objects=1_000),
        entrants=ALL,
        goals=(speed_at_least(0.75, ONE_HOP.name), speed_at_least(1.0, BEST_PEER)),
    ),
    Row(
        name="file-put-fsync",
        title="File put 1 KiB, fsync",
        sentence="The same puts, with the file and its folder on the disk before the put returns.",
        unit="op/s",
        place="files",
        plan=Plan(workload="put_in_turn", objects=300),
        entrants=entrants(OURS, ONE_HOP, NO_HOP),
        goals=(speed_at_least(0.9, ONE_HOP.name),),
        fsync=True,
    ),
    Row(
        name="file-put-typed",
        title="File put_bytes 1 KiB with content type, no fsync",
        sentence="Puts of bytes whose content type is kept; the floor does not keep it.",
        unit="op/s",
        place="files",
        plan=Plan(workload="put_typed_in_turn", objects=1_000),
        entrants=entrants(OURS, SEED, ONE_HOP),
        goals=(speed_at_least(0.75, ONE_HOP.name),),
    ),
    Row(
        name="file-list",
        title="File list 100,000 keys",
        sentence="All of 100,000 keys in 100 folders; the floor sorts each folder and walks in key order.",
        unit="ms",
        place="tree",
        plan=Plan(workload="list_all", objects=TREE_KEYS, per_folder=1_000, prefix="all/"),
        entrants=entrants(OURS, SEED, OBSTORE, OPENDAL, ONE_HOP),
        goals=(Goal(1.3, ONE_HOP.name),),
    ),
    Row(
        name="file-list-objects",
        title="File list 100,000 objects with sizes",
        sentence="All of those objects, each with its size; the floor asks for the status of each file.",
        unit="ms",
        place="tree",
        plan=Plan(workload="list_objects", objects=TREE_KEYS, per_folder=1_000, prefix="all/"),
        entrants=entrants(OURS, OBSTORE, ONE_HOP),
        goals=(Goal(1.0, OBSTORE.name),),
    ),
    Row(
        name="file-list-first",
        title="File list, first 10 of 100,000 keys",
        sentence="The first 10 of those keys; obstore and opendal give any 10.",
        unit="ms",
        place="tree",
        plan=Plan(workload="list_first", objects=TREE_KEYS, per_folder=1_000, prefix="all/", count=10),
        entrants=entrants(OURS, SEED, OBSTORE, OPENDAL, ONE_HOP),
        goals=(Goal(1.3, ONE_HOP.name),),
    ),
    OPEN,
    at_1_gib(OPEN),
    UPLOAD,
    at_1_gib(UPLOAD),
)
