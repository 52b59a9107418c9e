"""Tables of the chassis, the same in every service's database: versions, brought up by each service's own migrations.

The shape is that of contracts.md, section 4. Roles: ``owner`` runs the migrations, ``app`` is the api and the worker,
``relay`` reads the outbox and keeps its own progress. Days come and go by two functions that lend the owner's right.
"""

from __future__ import annotations

from typing import Protocol

INBOX_DAYS = 7
AHEAD_DAYS = 3

TABLES = """
CREATE TABLE outbox (
  id uuid NOT NULL, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
  sequence bigint NOT NULL, payload bytea NOT NULL CHECK (octet_length(payload) <= 262144),
  causationid uuid NOT NULL, traceparent text NOT NULL, parent_span bytea,
  occurred_at timestamptz NOT NULL DEFAULT now(), written_on date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date
) PARTITION BY RANGE (written_on);
CREATE INDEX ON outbox USING brin (occurred_at);
CREATE TABLE inbox (event_id uuid PRIMARY KEY) PARTITION BY RANGE (event_id);
CREATE TABLE inbox_old (event_id uuid PRIMARY KEY, accepted_by text NOT NULL, reason text NOT NULL);
CREATE TABLE topic (name text PRIMARY KEY, topic_id text NOT NULL, partitions int NOT NULL);
CREATE TABLE position (
  topic text, partition int, next_offset bigint NOT NULL, PRIMARY KEY (topic, partition)) WITH (fillfactor = 40);
CREATE TABLE stream (
  topic text, key text, sequence bigint NOT NULL, PRIMARY KEY (key, topic)) WITH (fillfactor = 70);
CREATE TABLE agenda (
  id uuid PRIMARY KEY, key text NOT NULL, type text NOT NULL, body jsonb NOT NULL, due timestamptz NOT NULL,
  leased_until timestamptz, attempts int NOT NULL DEFAULT 0, error_class text, error text, traceparent text NOT NULL);
CREATE INDEX ON agenda (due);
CREATE INDEX ON agenda (key);
CREATE TABLE parked (
  id uuid PRIMARY KEY, line text NOT NULL, place bigint GENERATED ALWAYS AS IDENTITY, state text NOT NULL, type text,
  topic text, partition int, "offset" bigint, headers bytea, raw bytea NOT NULL,
  error_class text NOT NULL, error text NOT NULL, attempts int NOT NULL, parked_at timestamptz NOT NULL DEFAULT now(),
  retry_at timestamptz, ended_by text, reason text);
CREATE INDEX ON parked (line, place) WHERE state IN ('OPEN', 'DEAD');
CREATE TABLE relay_progress (
  only_one bool PRIMARY KEY DEFAULT true CHECK (only_one), system_id bigint NOT NULL, timeline int NOT NULL,
  commit_lsn pg_lsn NOT NULL, committed_at timestamptz NOT NULL, publication text NOT NULL, stopped text);
CREATE TABLE relay_recovery (
  id uuid PRIMARY KEY, cause text NOT NULL, rows bigint NOT NULL, seconds real NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), announced bool NOT NULL DEFAULT false);
CREATE PUBLICATION outbox FOR TABLE outbox
  (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span, occurred_at)
  WITH (publish = 'insert', publish_via_partition_root = true);
"""

# The owner's right to make partitions is lent to the app by one function; a lock keeps two workers apart.
# It goes on from the last day there is, so that a service that was off for a week has no hole in its inbox.
# Made aside and attached: PARTITION OF would lock the parent against everyone, and deadlock with an open batch.
PARTITIONS = """
CREATE FUNCTION ensure_partitions(behind int, ahead int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  today date := (now() AT TIME ZONE 'UTC')::date;
  made int := 0;
  last date;
  d date;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
  SELECT max(to_date(right(relname, 8), 'YYYYMMDD')) INTO last FROM pg_class WHERE relname ~ '^inbox_[0-9]{8}$';
  FOR d IN SELECT g::date FROM generate_series(least(today, coalesce(last + 1, today - behind)), today + ahead,
                                               interval '1 day') g LOOP
    IF d >= today AND to_regclass('outbox_' || to_char(d, 'YYYYMMDD')) IS NULL THEN
      EXECUTE format('CREATE TABLE %I (LIKE outbox INCLUDING ALL)', 'outbox_' || to_char(d, 'YYYYMMDD'));
      EXECUTE format('ALTER TABLE outbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        'outbox_' || to_char(d, 'YYYYMMDD'), d, d + 1);
      made := made + 1;
    END IF;
    IF to_regclass('inbox_' || to_char(d, 'YYYYMMDD')) IS NULL THEN
      EXECUTE format('CREATE TABLE %I (LIKE inbox INCLUDING ALL)', 'inbox_' || to_char(d, 'YYYYMMDD'));
      EXECUTE format('ALTER TABLE inbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        'inbox_' || to_char(d, 'YYYYMMDD'), id_floor(d), id_floor(d + 1));
      made := made + 1;
    END IF;
  END LOOP;
  RETURN made;
END $$;
CREATE FUNCTION id_floor(d date) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM d)::bigint) * 1000), 12, '0') || repeat('0', 20))::uuid
$$;
"""

GRANTS = """
REVOKE ALL ON FUNCTION ensure_partitions(int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions(int, int) TO app;
GRANT SELECT, INSERT ON outbox, inbox, inbox_old, topic TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON position, stream, agenda, parked TO app;
GRANT SELECT, UPDATE ON relay_recovery TO app;
GRANT SELECT ON relay_progress TO app;
GRANT SELECT ON outbox TO relay;
GRANT SELECT, INSERT, UPDATE ON relay_progress TO relay;
GRANT SELECT, INSERT ON relay_recovery TO relay;
"""


# Long actions with their frozen plan, privileged actions in a chain of hashes, beats said and heard.
OPERATIONS = """
CREATE TABLE operation (
  id uuid PRIMARY KEY, kind text NOT NULL, state text NOT NULL CHECK (state IN
    ('PLANNED', 'RUNNING', 'PAUSED', 'DONE', 'FAILED', 'CANCELLED')),
  plan jsonb NOT NULL, progress jsonb NOT NULL, actor text NOT NULL, reason text,
  created_at timestamptz NOT NULL DEFAULT now(), changed_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz);
CREATE TABLE audit (
  number bigint PRIMARY KEY, at timestamptz NOT NULL, actor text NOT NULL, action text NOT NULL, subject text NOT NULL,
  reason text NOT NULL, before jsonb, after jsonb, previous bytea NOT NULL, hash bytea NOT NULL);
CREATE TABLE canary (
  source text PRIMARY KEY, number bigint NOT NULL, said_at timestamptz NOT NULL, heard_at timestamptz NOT NULL,
  silent_since timestamptz);
GRANT SELECT, INSERT, UPDATE, DELETE ON operation TO app;
GRANT SELECT, INSERT ON audit TO app;
GRANT SELECT, INSERT, UPDATE ON canary TO app;
"""


# What is past its time goes, a day at a time; the owner's right to drop is lent to the app by a function that demands
# the proof. A day of the inbox stays as long as something of this database may still bring an id of it: an intent or
# timer, whose answer has its time, or a record set aside. The floor, below which no event is handled, moves a day
# before the partition goes: by then every worker knows, and without the partition the database itself would refuse.
# A day of the outbox goes when none of its rows would be scanned by a recovery from the relay's position.
# The lock keeps the whole table, so it is taken for one table a transaction, and given up rather than waited for.
RETENTION = """
CREATE FUNCTION id_day(id uuid) RETURNS date LANGUAGE sql IMMUTABLE AS $$
  SELECT (to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
          AT TIME ZONE 'UTC')::date
$$;
CREATE FUNCTION first_day(parent regclass) RETURNS date LANGUAGE sql STABLE AS $$
  SELECT min(to_date(right(relname, 8), 'YYYYMMDD')) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
   WHERE inhparent = parent
$$;
CREATE FUNCTION inbox_floor(days int) RETURNS date LANGUAGE plpgsql STABLE AS $$
DECLARE
  oldest date := first_day('inbox');
  wanted date := (now() AT TIME ZONE 'UTC')::date - greatest(days, 2);
  needed uuid;
BEGIN
  SELECT id INTO needed FROM (
    (SELECT id FROM agenda WHERE id >= id_floor(oldest) AND id < id_floor(wanted) ORDER BY id LIMIT 1)
    UNION ALL
    (SELECT id FROM parked WHERE state IN ('OPEN', 'DEAD') AND error_class <> 'BELOW_FLOOR'
        AND id >= id_floor(oldest) AND id < id_floor(wanted) ORDER BY id LIMIT 1)) one ORDER BY id LIMIT 1;
  RETURN coalesce(id_day(needed), greatest(oldest, wanted));
END $$;
CREATE FUNCTION drop_old_day(days int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
  day date := first_day('outbox');
  published timestamptz;
  unproven bool;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('ensure_partitions')) THEN
    RETURN NULL;
  END IF;
  SELECT committed_at - interval '10 min' INTO published FROM relay_progress WHERE stopped IS NULL;
  IF published IS NOT NULL AND day < (now() AT TIME ZONE 'UTC')::date - greatest(days, 2) THEN
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE occurred_at >= $1)', 'outbox_' || to_char(day, 'YYYYMMDD'))
      INTO unproven USING published;
    IF NOT unproven THEN
      EXECUTE format('DROP TABLE %I', 'outbox_' || to_char(day, 'YYYYMMDD'));
      RETURN 'outbox_' || to_char(day, 'YYYYMMDD');
    END IF;
  END IF;
  day := first_day('inbox');
  IF day < inbox_floor(days) - 1 THEN
    EXECUTE format('DROP TABLE %I', 'inbox_' || to_char(day, 'YYYYMMDD'));
    RETURN 'inbox_' || to_char(day, 'YYYYMMDD');
  END IF;
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION drop_old_day(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_old_day(int) TO app;
"""


# Which Kafka a position's records went to: its cluster, and its topics' ids. Below which transaction every row is
# proven published, told by no clock: all that was committed when the position was stored had a smaller number. Why a
# person wants the outbox read again, and what the relay, who may not write into the outbox, has to tell.
RELAY_TARGET = """
ALTER TABLE relay_progress ADD COLUMN kafka_cluster text, ADD COLUMN kafka_topics jsonb,
  ADD COLUMN proven_xid xid8, ADD COLUMN rescan text;
CREATE TABLE relay_notice (
  id uuid PRIMARY KEY, kind text NOT NULL CHECK (kind IN ('STALLED', 'RESUMED', 'LEFT_OUT')), detail text NOT NULL,
  since_at timestamptz NOT NULL, took_ms bigint NOT NULL DEFAULT 0, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  announced bool NOT NULL DEFAULT false);
GRANT SELECT, UPDATE ON relay_notice TO app;
GRANT SELECT, INSERT ON relay_notice TO relay;
"""


# Which Kafka cluster a topic was first read from; what stands still although there is work, until it was told that it
# goes on: one row a role, with each stalled partition's position.
PROGRESS = """
ALTER TABLE topic ADD COLUMN cluster_id text;
GRANT UPDATE (cluster_id) ON topic TO app;
CREATE TABLE stall (
  role text PRIMARY KEY, since_at timestamptz NOT NULL, detail text NOT NULL, positions jsonb NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON stall TO app;
"""


# What is kept is a day, not all days since: below the floor an id is told as long as its day has its partition, and a
# day stays for what may still bring an id of it, or as one of the newest days that were lived. Days lived are counted,
# not measured: a clock that jumps ahead by weeks and comes back has forgotten nothing. A day whose ids are forgotten is
# written down, so that no clock that goes back makes an empty place for it, where what was done once were done again.
# What is to go is judged anew once the lock is held: whoever brings an id has looked into the inbox before.
# That a day of the outbox is published is proven by the log's own order, whatever the clock was when its rows came:
# the relay has passed where the log stood when the day's last row was in it, and no row has come since.
# OFFSET 0 keeps a caller's condition outside: pushed down to pg_class, it would read a day from any table's name.
PARKED_DAYS = """
CREATE TABLE inbox_gone (day date PRIMARY KEY);
CREATE TABLE outbox_sealed (day date PRIMARY KEY, lsn pg_lsn NOT NULL, tip tid);
INSERT INTO inbox_gone SELECT first_day('inbox') - n FROM generate_series(1, 400) n;
CREATE FUNCTION days_of(parent regclass) RETURNS SETOF date LANGUAGE sql STABLE AS $$
  SELECT to_date(right(relname, 8), 'YYYYMMDD') FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
   WHERE inhparent = parent
  OFFSET 0
$$;
"""
ENSURE_PARTITIONS = """
CREATE OR REPLACE FUNCTION ensure_partitions(behind int, ahead int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  today date := (now() AT TIME ZONE 'UTC')::date;
  made int := 0;
  last date;
  d date;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('ensure_partitions'));
  SELECT coalesce(max(day), today - behind - 1) INTO last FROM days_of('inbox') day WHERE day < today;
  FOR d IN SELECT g::date FROM generate_series(greatest(last + 1, today - 31), today + ahead, interval '1 day') g
            UNION SELECT id_day(id) FROM agenda WHERE id >= id_floor(last + 1) AND id < id_floor(today) ORDER BY 1 LOOP
    IF d >= today AND to_regclass('outbox_' || to_char(d, 'YYYYMMDD')) IS NULL THEN
      EXECUTE format('CREATE TABLE %I (LIKE outbox INCLUDING ALL)', 'outbox_' || to_char(d, 'YYYYMMDD'));
      EXECUTE format('ALTER TABLE outbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        'outbox_' || to_char(d, 'YYYYMMDD'), d, d + 1);
      made := made + 1;
    END IF;
    IF to_regclass('inbox_' || to_char(d, 'YYYYMMDD')) IS NULL AND d NOT IN (SELECT day FROM inbox_gone) THEN
      EXECUTE format('CREATE TABLE %I (LIKE inbox INCLUDING ALL)', 'inbox_' || to_char(d, 'YYYYMMDD'));
      EXECUTE format('ALTER TABLE inbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        'inbox_' || to_char(d, 'YYYYMMDD'), id_floor(d), id_floor(d + 1));
      made := made + 1;
    END IF;
  END LOOP;
  RETURN made;
END $$;
"""
LIVED_DAYS = """
CREATE OR REPLACE FUNCTION inbox_floor(days int) RETURNS date LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN greatest(first_day('inbox'), (now() AT TIME ZONE 'UTC')::date - greatest(days, 2));
END $$;
CREATE FUNCTION was_lived(day date) RETURNS bool LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (SELECT FROM inbox WHERE event_id >= id_floor(day) AND event_id < id_floor(day + 1));
END $$;
CREATE FUNCTION lived_since(days int) RETURNS date LANGUAGE plpgsql STABLE AS $$
DECLARE
  lived int := 0;
  d date;
BEGIN
  FOR d IN SELECT day FROM days_of('inbox') day ORDER BY day DESC LOOP
    lived := lived + was_lived(d)::int;
    IF lived >= days THEN
      RETURN d;
    END IF;
  END LOOP;
  RETURN '-infinity';
END $$;
"""
INBOX_KEPT = """
CREATE OR REPLACE FUNCTION inbox_kept(days int) RETURNS SETOF date LANGUAGE plpgsql STABLE AS $$
DECLARE
  since date := lived_since(days + 1);
  d date;
BEGIN
  FOR d IN SELECT day FROM days_of('inbox') day WHERE day < inbox_floor(days) LOOP
    IF (d >= since AND was_lived(d)
       OR EXISTS (SELECT FROM agenda WHERE id >= id_floor(d) AND id < id_floor(d + 1))
       OR EXISTS (SELECT FROM parked WHERE id >= id_floor(d) AND id < id_floor(d + 1)
                     AND state IN ('OPEN', 'DEAD') AND error_class <> 'BELOW_FLOOR')) THEN
      RETURN NEXT d;
    END IF;
  END LOOP;
END $$;
"""
PUBLISHED_DAYS = """
CREATE FUNCTION outbox_published(day date) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  part text := 'outbox_' || to_char(day, 'YYYYMMDD');
  relay relay_progress;
  seal outbox_sealed;
  last tid;
  unproven bool;
BEGIN
  SELECT * INTO relay FROM relay_progress WHERE stopped IS NULL;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE occurred_at >= $1)', part)
    INTO unproven USING relay.committed_at - interval '10 min';
  IF unproven THEN
    RETURN false;
  END IF;
  LOCK TABLE ONLY outbox IN ACCESS EXCLUSIVE MODE;
  EXECUTE format('SELECT max(ctid) FROM %I WHERE ctid >= $1', part) INTO last
    USING format('(%s,0)', greatest(pg_relation_size(part) / current_setting('block_size')::int - 1, 0))::tid;
  SELECT * INTO seal FROM outbox_sealed s WHERE s.day = outbox_published.day AND s.tip IS NOT DISTINCT FROM last
     AND s.lsn <= pg_current_wal_insert_lsn();
  IF NOT FOUND THEN
    INSERT INTO outbox_sealed AS s VALUES (day, pg_current_wal_insert_lsn(), last)
      ON CONFLICT ON CONSTRAINT outbox_sealed_pkey DO UPDATE SET lsn = excluded.lsn, tip = excluded.tip
      RETURNING * INTO seal;
  END IF;
  RETURN relay.commit_lsn >= seal.lsn;
END $$;
"""
OLD_DAYS = """
CREATE OR REPLACE FUNCTION drop_old_day(days int) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
  oldest date;
  d date;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('ensure_partitions')) THEN
    RETURN NULL;
  END IF;
  oldest := first_day('outbox');
  IF oldest < (now() AT TIME ZONE 'UTC')::date - greatest(days, 2) AND outbox_published(oldest) THEN
    EXECUTE format('DROP TABLE %I', 'outbox_' || to_char(oldest, 'YYYYMMDD'));
    DELETE FROM outbox_sealed WHERE day = oldest;
    RETURN 'outbox_' || to_char(oldest, 'YYYYMMDD');
  END IF;
  FOR d IN SELECT old FROM days_of('inbox') old WHERE old < inbox_floor(days) - 1
            EXCEPT SELECT inbox_kept(days) ORDER BY 1 LOOP
    LOCK TABLE ONLY inbox IN ACCESS EXCLUSIVE MODE;
    IF d NOT IN (SELECT inbox_kept(days)) THEN
      INSERT INTO inbox_gone SELECT d WHERE was_lived(d);
      EXECUTE format('DROP TABLE %I', 'inbox_' || to_char(d, 'YYYYMMDD'));
      RETURN 'inbox_' || to_char(d, 'YYYYMMDD');
    END IF;
  END LOOP;
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION outbox_published(date) FROM PUBLIC;
"""


# The answers of commands that were given under an idempotency key, kept for those who repeat them.
IDEMPOTENCY = """
CREATE TABLE idempotency_key (
  caller text, route text, key text, fingerprint text NOT NULL, subject text NOT NULL, answer text NOT NULL,
  at timestamptz NOT NULL, PRIMARY KEY (caller, route, key));
CREATE INDEX ON idempotency_key (at);
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_key TO app;
"""


# The table of intents and timers takes the word of the field, with all that is named after it; its rows stay.
TASK = """
ALTER TABLE agenda RENAME TO task;
ALTER INDEX agenda_due_idx RENAME TO task_due_idx;
ALTER INDEX agenda_key_idx RENAME TO task_key_idx;
DO $$
DECLARE
  old text;
BEGIN
  FOR old IN SELECT conname FROM pg_constraint
              WHERE conrelid = 'task'::regclass AND starts_with(conname, 'agenda_') LOOP
    EXECUTE format('ALTER TABLE task RENAME CONSTRAINT %I TO %I', old, 'task' || substr(old, 7));
  END LOOP;
END $$;
"""


# Why an input waits, as far as it may be kept, how far up the ladder it is; what the outside said last. Whether the
# service's consumers rest, and why. Which workers live, and what was in hand when one died.
PARKED_CAUSES = """
ALTER TABLE parked ADD COLUMN exception text, ADD COLUMN frames text, ADD COLUMN fingerprint text,
  ADD COLUMN retries int NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN failure jsonb;
CREATE TABLE consumer_pause (
  only_one bool PRIMARY KEY DEFAULT true CHECK (only_one), since timestamptz NOT NULL DEFAULT now(),
  cause text NOT NULL, release text NOT NULL, actor text NOT NULL);
CREATE TABLE worker_life (id uuid PRIMARY KEY, started_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE suspect (
  topic text, partition int, "offset" bigint NOT NULL, deaths int NOT NULL, PRIMARY KEY (topic, partition));
GRANT SELECT, INSERT, DELETE ON consumer_pause, worker_life TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON suspect TO app;
"""


# A shadow is a schema beside the live one with a copy of every table, none of them published: whoever has it first in
# his search path reads and writes nothing else. The owner's right to make, exchange and drop it is lent by functions;
# what is exchanged must stand alone, for a copy has no foreign keys, triggers or views.
SHADOW = """
CREATE FUNCTION shadow_open(named text, exchanged text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  live regclass;
  it text;
  what text;
  who text;
BEGIN
  IF named !~ '^shadow_[0-9a-f]{32}$' THEN
    RAISE EXCEPTION '% is no name of a shadow', named USING ERRCODE = 'invalid_name';
  END IF;
  FOREACH it IN ARRAY exchanged LOOP
    live := to_regclass(format('public.%I', it));
    IF live IS NULL THEN
      RAISE EXCEPTION 'there is no table %', it USING ERRCODE = 'undefined_table';
    END IF;
    IF EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND live IN (conrelid, confrelid))
       OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = live AND NOT tgisinternal)
       OR EXISTS (SELECT FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid WHERE d.refobjid = live)
       OR NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'p' AND conrelid = live) THEN
      RAISE EXCEPTION 'table % has a foreign key, a trigger or a view, or no primary key: it cannot be rebuilt', it
        USING ERRCODE = 'feature_not_supported';
    END IF;
  END LOOP;
  EXECUTE format('CREATE SCHEMA %I', named);
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO app', named);
  FOR live, it IN SELECT oid, relname FROM pg_class
                   WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition LOOP
    EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL)', named, it, live);
    FOR what, who IN SELECT privilege_type, rolname FROM pg_class c, aclexplode(c.relacl) a
                       JOIN pg_roles r ON r.oid = a.grantee WHERE c.oid = live LOOP
      EXECUTE format('GRANT %s ON %I.%I TO %I', what, named, it, who);
    END LOOP;
  END LOOP;
  EXECUTE format('CREATE TABLE %I.first_record (topic text, key text, sequence bigint, PRIMARY KEY (key, topic))',
                 named);
  EXECUTE format('GRANT SELECT, INSERT ON %I.first_record TO app', named);
  FOREACH it IN ARRAY exchanged LOOP
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.%I TO app', named, it);
  END LOOP;
END $$;
CREATE FUNCTION shadow_swap(named text, exchanged text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  it text;
  identity text;
BEGIN
  IF named !~ '^shadow_[0-9a-f]{32}$' THEN
    RAISE EXCEPTION '% is no name of a shadow', named USING ERRCODE = 'invalid_name';
  END IF;
  EXECUTE format('CREATE SCHEMA %I', named || '_before');
  FOREACH it IN ARRAY exchanged LOOP
    EXECUTE format('ALTER TABLE public.%I SET SCHEMA %I', it, named || '_before');
    EXECUTE format('ALTER TABLE %I.%I SET SCHEMA public', named, it);
    FOR identity IN SELECT attname FROM pg_attribute
                     WHERE attrelid = format('public.%I', it)::regclass AND attidentity <> '' LOOP
      EXECUTE format('SELECT setval(pg_get_serial_sequence(%L, %L), max(%I)) FROM public.%I HAVING max(%I) > 0',
                     format('public.%I', it), identity, identity, it, identity);
    END LOOP;
  END LOOP;
END $$;
CREATE FUNCTION shadow_sweep(kept text[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  it text;
  gone int := 0;
BEGIN
  FOR it IN SELECT nspname FROM pg_namespace
             WHERE nspname ~ '^shadow_[0-9a-f]{32}(_before)?$' AND nspname <> ALL(kept) LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', it);
    gone := gone + 1;
  END LOOP;
  RETURN gone;
END $$;
REVOKE ALL ON FUNCTION shadow_open(text, text[]), shadow_swap(text, text[]), shadow_sweep(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION shadow_open(text, text[]), shadow_swap(text, text[]), shadow_sweep(text[]) TO app;
"""


# What the relay sets aside, what it is asked to send once more, and what a restored database lacks. A row the broker
# refuses is written down before the position passes it, with those behind it of its key: they lie in the outbox, so no
# day of that goes meanwhile. Facts of ours on our topics that the outbox does not have stop the relay until a person
# has spoken; ``looked_for`` is the start of the server for which the relay has looked.
RELAY_HELD = """
CREATE TABLE relay_held (
  id uuid PRIMARY KEY, topic text NOT NULL, key text NOT NULL, sequence bigint NOT NULL, type text NOT NULL,
  size int NOT NULL, reason text NOT NULL, since date NOT NULL, held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  state text NOT NULL DEFAULT 'HELD' CHECK (state IN ('HELD', 'TO_BURY', 'BURIED')),
  ended_by text, ended_why text, ended_at timestamptz);
CREATE TABLE relay_republish (
  id uuid PRIMARY KEY, since_at timestamptz, key text, actor text NOT NULL, reason text NOT NULL,
  asked_at timestamptz NOT NULL DEFAULT clock_timestamp(), rows bigint, ended_at timestamptz,
  CHECK (num_nonnulls(since_at, key) = 1));
CREATE TABLE relay_restore (
  id uuid PRIMARY KEY, found_at timestamptz NOT NULL DEFAULT clock_timestamp(), detail text NOT NULL,
  facts bigint NOT NULL, sample jsonb NOT NULL, ends jsonb NOT NULL,
  actor text, reason text, ended_at timestamptz);
CREATE UNIQUE INDEX relay_restore_open ON relay_restore ((true)) WHERE ended_at IS NULL;
ALTER TABLE relay_progress ADD COLUMN looked_for timestamptz;
ALTER TABLE relay_notice DROP CONSTRAINT relay_notice_kind_check;
ALTER TABLE relay_notice ADD COLUMN key text, ADD CONSTRAINT relay_notice_kind_check
  CHECK (kind IN ('STALLED', 'RESUMED', 'LEFT_OUT', 'BURIED', 'RESTORED'));
GRANT SELECT, INSERT, UPDATE, DELETE ON relay_held, relay_republish, relay_restore TO relay;
GRANT SELECT ON relay_held, relay_restore TO app;
GRANT SELECT, INSERT ON audit TO relay;
GRANT SELECT ON canary TO relay;
GRANT DELETE ON topic TO app;
"""


# What a restored database has published and forgotten. ``topic_record`` is what its relay has read from the topics, and
# is emptied in the same transaction; ``said_before`` are the facts it did not know, by their cause, which is handled
# once more: with ``kept`` they are in the outbox again, without they are declared lost, and keep their numbers.
# Nobody numbers a stream meanwhile: the heartbeat's row first, then streams, in the order of all who write them. What
# was said since then and is not on a topic is numbered on behind what is; where a row is held, none behind it was sent.
RELAY_RETURNED = """
CREATE UNLOGGED TABLE topic_record (
  id uuid PRIMARY KEY, topic text NOT NULL, key text NOT NULL, type text NOT NULL, sequence bigint NOT NULL,
  payload bytea NOT NULL, causationid uuid NOT NULL, traceparent text NOT NULL, occurred_at timestamptz NOT NULL);
CREATE TABLE said_before (
  id uuid PRIMARY KEY, causationid uuid NOT NULL, type text NOT NULL, sequence bigint NOT NULL, kept bool NOT NULL);
CREATE INDEX ON said_before (causationid);
ALTER TABLE relay_restore ADD COLUMN begins jsonb NOT NULL DEFAULT '{}', ADD COLUMN of_commands bigint,
  ADD COLUMN how text CHECK (how IN ('declare-loss', 'read-back'));
UPDATE relay_restore SET how = 'declare-loss' WHERE ended_at IS NOT NULL;
GRANT SELECT, INSERT ON topic_record TO relay;
GRANT SELECT, DELETE ON said_before TO app;
CREATE FUNCTION relay_restored(service text, beat bigint, read_back bool, OUT lacked bigint, OUT changed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '60s' AS $$
DECLARE
  moved bigint;
BEGIN
  UPDATE canary SET number = greatest(number, beat) WHERE source = service;
  PERFORM ensure_partitions(7, 3);
  LOCK TABLE stream IN ACCESS EXCLUSIVE MODE;
  INSERT INTO said_before
  SELECT id, causationid, type, sequence, read_back FROM topic_record r
   WHERE type <> 'canary.beat' AND NOT EXISTS (SELECT FROM outbox o WHERE o.id = r.id)
  ON CONFLICT (id) DO UPDATE SET kept = excluded.kept;
  GET DIAGNOSTICS lacked = ROW_COUNT;
  UPDATE outbox o SET sequence = r.sequence, payload = r.payload FROM topic_record r
   WHERE o.id = r.id AND (o.sequence, o.payload) IS DISTINCT FROM (r.sequence, r.payload);
  GET DIAGNOSTICS changed = ROW_COUNT;
  UPDATE outbox o SET sequence = n.sequence
    FROM (SELECT o.id, o.written_on, s.highest + row_number() OVER (PARTITION BY s.topic, s.key ORDER BY o.sequence)
                 AS sequence
            FROM (SELECT topic, key, min(sequence) AS lowest, max(sequence) AS highest
                    FROM topic_record GROUP BY topic, key) s
            JOIN outbox o ON (o.aggregatetype, o.aggregateid) = (s.topic, s.key) AND o.sequence >= s.lowest
           WHERE NOT EXISTS (SELECT FROM topic_record r WHERE r.id = o.id)
             AND NOT EXISTS (SELECT FROM relay_held h
                              WHERE h.id = o.id AND h.state = 'BURIED'
                                 OR (h.topic, h.key) = (s.topic, s.key) AND h.state <> 'BURIED'
                                    AND NOT EXISTS (SELECT FROM topic_record r WHERE r.id = h.id))) n
   WHERE (o.id, o.written_on) = (n.id, n.written_on) AND o.sequence <> n.sequence;
  GET DIAGNOSTICS moved = ROW_COUNT;
  changed := changed + moved;
  INSERT INTO stream
  SELECT topic, key, greatest(max(sequence), max(said)) FROM topic_record
    LEFT JOIN (SELECT aggregatetype, aggregateid, max(sequence) AS said FROM outbox GROUP BY 1, 2) o
      ON (o.aggregatetype, o.aggregateid) = (topic, key)
   GROUP BY topic, key
  ON CONFLICT (key, topic) DO UPDATE SET sequence = excluded.sequence;
  IF read_back THEN
    INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, occurred_at)
    SELECT id, topic, key, type, sequence, payload, causationid, traceparent, occurred_at FROM topic_record r
     WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = r.id) ORDER BY topic, key, sequence;
  END IF;
  DELETE FROM topic_record;
END $$;
REVOKE ALL ON FUNCTION relay_restored(text, bigint, bool) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION relay_restored(text, bigint, bool) TO relay;
"""


def held_back(function: str) -> str:
    """Return a function of version 4 as it lets no day of the outbox go while a row of it is set aside."""
    wanted = "  IF NOT FOUND THEN\n    RETURN false;"
    held = "  IF NOT FOUND OR EXISTS (SELECT FROM relay_held WHERE state <> 'BURIED') THEN\n    RETURN false;"
    return function.replace(wanted, held, 1).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)


def of_task(function: str) -> str:
    """Return a function of version 4 as it reads the table under its new name."""
    return function.replace("FROM agenda", "FROM task")


class Operations(Protocol):
    """The part of Alembic's ``op`` that is needed here."""

    def execute(self, sqltext: str) -> None:
        """Run SQL in the migration's transaction."""
        ...


def upgrade(op: Operations, version: int) -> None:
    """Bring the chassis' tables from one version to the next; called by each service's own migrations.

    Raises ValueError for a version that does not exist.
    """
    if version not in VERSIONS:
        message = f"the chassis has no tables of version {version}: the newest is {max(VERSIONS)}"
        raise ValueError(message)
    for statements in VERSIONS[version]:
        op.execute(statements)


FIRST_DAYS = f"SELECT ensure_partitions({INBOX_DAYS}, {AHEAD_DAYS})"
VERSIONS = {
    1: (TABLES, PARTITIONS, GRANTS, FIRST_DAYS),
    2: (OPERATIONS,),
    3: (RETENTION,),
    4: (RELAY_TARGET, PARKED_DAYS, ENSURE_PARTITIONS, LIVED_DAYS, INBOX_KEPT, PUBLISHED_DAYS, OLD_DAYS, PROGRESS),
    5: (TASK, of_task(ENSURE_PARTITIONS), of_task(INBOX_KEPT), IDEMPOTENCY),
    6: (PARKED_CAUSES,),
    7: (SHADOW,),
    8: (RELAY_HELD, held_back(PUBLISHED_DAYS)),
    9: (RELAY_RETURNED,),
}
