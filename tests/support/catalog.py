"""What Postgres' catalogs say of the schema `sfm`, in words that are the same for every database that has the same schema."""

from __future__ import annotations

from typing import Any

import psycopg

Facts = dict[str, list[str]]
"""By catalog: a line for each thing."""

# Everything a catalog says of a thing, except its numbers (oids), and what changes while it is used. In Postgres 15.20, for one,
# a column's options also hold a stamp of the server's own making, pg_attver, which pg_dump leaves out too.
_RELATIONS = """
WITH relation AS (
  SELECT c.oid, c.relname::text AS name FROM pg_class c WHERE c.relnamespace = 'sfm'::regnamespace
  UNION ALL
  SELECT c.reltoastrelid, 'toast of ' || c.relname FROM pg_class c
  WHERE c.relnamespace = 'sfm'::regnamespace AND c.reltoastrelid <> 0
)
"""
_QUERIES = {
    "relation": _RELATIONS
    + """
SELECT r.name, to_jsonb(c) - ARRAY[
  'oid', 'relname', 'relnamespace', 'reltype', 'relfilenode', 'reltoastrelid', 'relpages', 'reltuples', 'relallvisible',
  'relallfrozen', 'relfrozenxid', 'relminmxid', 'relnatts']
FROM relation r JOIN pg_class c USING (oid)""",
    "column": _RELATIONS
    + """
SELECT r.name, row_number() OVER (PARTITION BY r.name ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod),
  pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum),
  ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg_attver=%'),
  to_jsonb(a) - ARRAY['attrelid', 'attnum', 'attcacheoff', 'atthasmissing', 'attmissingval', 'attoptions']
FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped""",
    "constraint": _RELATIONS
    + """
SELECT r.name, c.conname, c.contype, pg_get_constraintdef(c.oid), c.convalidated, c.condeferrable, c.condeferred, c.connoinherit
FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid""",
    "index": _RELATIONS
    + """
SELECT r.name, pg_get_indexdef(i.indexrelid),
  to_jsonb(i) - ARRAY['indexrelid', 'indrelid', 'indkey', 'indexprs', 'indpred', 'indcheckxmin']
FROM relation r JOIN pg_index i ON i.indrelid = r.oid WHERE r.name NOT LIKE 'toast of %'""",
    "sequence": _RELATIONS
    + """
SELECT r.name, pg_get_serial_sequence(format('sfm.%I', r.name), a.attname), to_jsonb(s) - 'seqrelid'
FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid
JOIN pg_sequence s ON s.seqrelid = pg_get_serial_sequence(format('sfm.%I', r.name), a.attname)::regclass
WHERE a.attnum > 0 AND NOT a.attisdropped AND r.name NOT LIKE 'toast of %'""",
    # Of whatever kind: functions, triggers, policies, statistics, … By name, for there are none to be described.
    "thing": _RELATIONS
    + """
SELECT DISTINCT i.type, i.identity, obj_description(d.objid, d.classid::regclass::name)
FROM pg_depend d CROSS JOIN pg_identify_object(d.classid, d.objid, 0) i
WHERE i.schema IS DISTINCT FROM 'pg_toast' AND d.objid NOT IN (SELECT oid FROM relation WHERE name LIKE 'toast of %')
  AND ((d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'sfm'::regnamespace)
    OR (d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM relation)))""",
    "schema": "SELECT nspowner, nspacl, obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'sfm'",
}


def described(connection: psycopg.Connection[Any]) -> Facts:
    """All of it."""
    return {name: sorted(map(repr, connection.execute(query).fetchall())) for name, query in _QUERIES.items()}
