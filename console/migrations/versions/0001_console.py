"""The chassis' tables, every record of every topic, orders as they stand, what failed, spans of traces."""

from alembic import op

from quadrille.service import schema

revision = "0001"
down_revision = None

# Numbers are the order in which records came: what pages go by, and what is let go first. An order's id is its time.
OWN = """
CREATE TABLE event (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL UNIQUE, type text NOT NULL,
  source text NOT NULL, key text NOT NULL, sequence bigint, at timestamptz NOT NULL, causation uuid,
  trace_id text NOT NULL, topic text NOT NULL, partition int NOT NULL, "offset" bigint NOT NULL, schema_id int,
  body jsonb, fault text, headers jsonb NOT NULL, raw bytea NOT NULL,
  heard_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON event (key, number);
CREATE INDEX ON event (type, number);
CREATE INDEX ON event (topic, partition, "offset");
CREATE INDEX ON event (trace_id) WHERE trace_id <> '';
CREATE INDEX ON event (at);
CREATE INDEX ON event (number) WHERE fault IS NOT NULL;
CREATE INDEX ON event (reverse(event_id::text) text_pattern_ops);
CREATE TABLE order_view (
  order_id text PRIMARY KEY, status text NOT NULL, final bool NOT NULL, reason text, customer_id text,
  amount_minor bigint, currency text, skus text[] NOT NULL, placed_at timestamptz, ended_at timestamptz,
  took_ms bigint, waits_for text, waits_what text, waits_since timestamptz, because text, attention text,
  trace_id text NOT NULL, facts jsonb NOT NULL, parked jsonb NOT NULL, changed_at timestamptz NOT NULL
) WITH (fillfactor = 60);
CREATE INDEX ON order_view (status, order_id);
CREATE INDEX ON order_view (waits_for, order_id) WHERE waits_for IS NOT NULL;
CREATE INDEX ON order_view (customer_id, order_id);
CREATE INDEX ON order_view (reason, order_id) WHERE reason IS NOT NULL;
CREATE INDEX ON order_view (order_id) WHERE attention IS NOT NULL;
CREATE INDEX ON order_view (reverse(order_id) text_pattern_ops);
CREATE INDEX ON order_view (trace_id) WHERE trace_id <> '';
CREATE INDEX ON order_view (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX ON order_view (changed_at);
CREATE INDEX ON order_view USING gin (skus);
CREATE TABLE failure (
  service text, event_id text, order_id text NOT NULL, state text NOT NULL, error_class text NOT NULL,
  error text NOT NULL, behind int NOT NULL, since timestamptz NOT NULL, at timestamptz NOT NULL, ended_by text,
  reason text, body jsonb NOT NULL, PRIMARY KEY (service, event_id));
CREATE INDEX ON failure (at);
CREATE INDEX ON failure (since) WHERE state IN ('OPEN', 'DEAD');
CREATE TABLE span (
  trace_id text, span_id text, parent_id text NOT NULL, service text NOT NULL, role text NOT NULL, name text NOT NULL,
  kind int NOT NULL, began_ns bigint NOT NULL, ended_ns bigint NOT NULL, error text, attributes jsonb NOT NULL,
  PRIMARY KEY (trace_id, span_id));
CREATE TABLE trace (
  trace_id text PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  heard_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE alert (
  alert text PRIMARY KEY, kind text NOT NULL, "open" bool NOT NULL, severity int NOT NULL, number int NOT NULL,
  summary text NOT NULL, since timestamptz NOT NULL, at timestamptz NOT NULL, order_id text, told jsonb NOT NULL,
  busy text[] NOT NULL) WITH (fillfactor = 60);
CREATE INDEX ON alert (at) WHERE NOT "open";
GRANT SELECT, INSERT, DELETE ON event, span, trace TO app;
GRANT SELECT, INSERT, UPDATE, DELETE ON order_view, failure, alert TO app;
"""


def upgrade() -> None:
    for version in range(1, 8):
        schema.upgrade(op, version)
    op.execute(OWN)
