BEGIN TRANSACTION;
CREATE TABLE annotators (
        name TEXT PRIMARY KEY,
        token_sha256 TEXT UNIQUE
    ) STRICT;
INSERT INTO "annotators" VALUES('anna','8f2e62812c63510ce858a1b9e1fe573836ed10258af0f7b94386bdeffb797fab');
INSERT INTO "annotators" VALUES('ben','46d1e31b71f2392d52576045b229e39b95ce339285def5d22e186edda1613dd6');
CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        sha256 TEXT NOT NULL
    ) STRICT;
INSERT INTO "files" VALUES(1,'made.jsonl','0000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE gold (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        pair_id TEXT NOT NULL UNIQUE REFERENCES pairs (id),
        choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie'))
    ) STRICT;
CREATE TABLE leases (
        annotator TEXT PRIMARY KEY REFERENCES annotators (name),
        ticket TEXT NOT NULL UNIQUE,
        pair_id TEXT NOT NULL REFERENCES pairs (id),
        kind TEXT NOT NULL CHECK (kind IN ('first', 'repeat', 'gold')),
        swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
        at_random INTEGER NOT NULL CHECK (at_random IN (0, 1)),
        shown_at REAL NOT NULL,
        lease_until REAL NOT NULL
    ) STRICT;
CREATE TABLE meta (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
INSERT INTO "meta" VALUES('queue','{"votes_per_pair": 1, "order": "random", "random_slice": 0.2, "repeats": 0.0, "gold": 0.0, "lease_seconds": 600.0, "seed": 0}');
CREATE TABLE pairs (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        file INTEGER NOT NULL REFERENCES files (id),
        margin REAL,
        content TEXT NOT NULL
    ) STRICT;
INSERT INTO "pairs" VALUES(1,'2c001fda12c6838e',1,NULL,'{"id": "2c001fda12c6838e", "prompt": "question 0", "a": {"text": "answer a to 0", "finish_reason": "stop"}, "b": {"text": "answer b to 0", "finish_reason": "stop"}, "models": ["", ""], "source": "made.jsonl:1", "margin": null, "gold": null}');
INSERT INTO "pairs" VALUES(2,'68e851cddda8345c',1,NULL,'{"id": "68e851cddda8345c", "prompt": "question 1", "a": {"text": "answer a to 1", "finish_reason": "stop"}, "b": {"text": "answer b to 1", "finish_reason": "stop"}, "models": ["", ""], "source": "made.jsonl:2", "margin": null, "gold": null}');
INSERT INTO "pairs" VALUES(3,'a9a61cc51e7c3eb4',1,NULL,'{"id": "a9a61cc51e7c3eb4", "prompt": "question 2", "a": {"text": "answer a to 2", "finish_reason": "stop"}, "b": {"text": "answer b to 2", "finish_reason": "stop"}, "models": ["", ""], "source": "made.jsonl:3", "margin": null, "gold": null}');
CREATE TABLE votes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pair_id TEXT NOT NULL REFERENCES pairs (id),
        annotator TEXT NOT NULL REFERENCES annotators (name),
        verdict TEXT NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'bad', 'skip', 'flag', 'undo')),
        strength INTEGER CHECK (strength IS NULL OR (strength BETWEEN 1 AND 3 AND verdict IN ('a', 'b'))),
        reasons TEXT NOT NULL,
        note TEXT NOT NULL,
        swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
        kind TEXT NOT NULL CHECK (kind IN ('first', 'repeat', 'gold')),
        at_random INTEGER NOT NULL CHECK (at_random IN (0, 1)),
        shown_at REAL NOT NULL,
        sent_at REAL NOT NULL,
        milliseconds INTEGER NOT NULL CHECK (milliseconds >= 0),
        nonce TEXT NOT NULL UNIQUE,
        supersedes INTEGER UNIQUE REFERENCES votes (id) CHECK (supersedes < id),
        ticket TEXT UNIQUE,
        CHECK ((verdict = 'undo') = (ticket IS NULL)),
        CHECK (verdict <> 'undo' OR supersedes IS NOT NULL)
    ) STRICT;
INSERT INTO "votes" VALUES(1,'68e851cddda8345c','anna','a',NULL,'[]','',1,'first',1,1000000.0,1000000.0,1000,'nonce-00000000',NULL,'X_-GS2rVnZbU0By9Rii-gQ');
INSERT INTO "votes" VALUES(2,'2c001fda12c6838e','anna','a',NULL,'[]','',1,'first',1,1000000.0,1000000.0,1000,'nonce-00000001',NULL,'kEwsDPgR2K_2_sXSa6LD_g');
INSERT INTO "votes" VALUES(3,'a9a61cc51e7c3eb4','anna','a',NULL,'[]','',0,'first',1,1000000.0,1000000.0,1000,'nonce-00000002',NULL,'nLEr0kiCi6MH-hwm3U7Zgw');
CREATE TRIGGER votes_are_not_changed BEFORE UPDATE ON votes
        BEGIN SELECT RAISE (ABORT, 'votes are only ever added'); END;
CREATE TRIGGER votes_are_not_removed BEFORE DELETE ON votes
        BEGIN SELECT RAISE (ABORT, 'votes are only ever added'); END;
CREATE TRIGGER pairs_are_not_changed BEFORE UPDATE ON pairs
        BEGIN SELECT RAISE (ABORT, 'pairs are only ever added'); END;
CREATE TRIGGER pairs_are_not_removed BEFORE DELETE ON pairs
        BEGIN SELECT RAISE (ABORT, 'pairs are only ever added'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('pairs',3);
INSERT INTO "sqlite_sequence" VALUES('votes',3);
COMMIT;
PRAGMA user_version=1;
PRAGMA application_id=1279742548;
