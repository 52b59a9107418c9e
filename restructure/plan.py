SRC = {"chassis": "chassis/src", "quadrille": "cli/src", "sandbox": "sandbox/src"}
PACKAGES = {"chassis": "quadrille", "quadrille": "quadrille_cli", "sandbox": "quadrille_sandbox"}
NEWSRC = {"quadrille": "chassis/src", "quadrille_cli": "cli/src", "quadrille_sandbox": "sandbox/src"}
C = """
words messages
registry handlers
outside intents
facts system_messages
undo system_messages
program app
run app
avro avro.codec
wire avro.decoder
projection avro.projection
schemas avro.schemas
schema_ids avro.registry
schema_registry avro.registry
worker consumer.worker
listener consumer.loop
standing consumer.assignment
reading consumer.deserializer
parked consumer.parking
silence consumer.heartbeat
canary consumer.heartbeat
session db.connection
tables db.schema
migrate db.migrations
audit db.audit
upkeep db.retention
breaker gateway.breaker
peer gateway.http_client
kafka kafka.config
topics kafka.topics
envelope kafka.headers
logs observability.logs
metrics observability.metrics
trace observability.trace_context
tracing observability.tracing
otlp observability.tracing
ops ops.server
ops_routes ops.routes
operators ops.actions
ops_orders ops.orders
inputs processing.envelope
commit processing.batch
ledger processing.unit_of_work
announce processing.outbox
attempts processing.compensation
tally processing.telemetry
relay relay.relay
relay_keeper relay.session
relay_pump relay.streaming
relay_outlet relay.publisher
relay_recovery relay.recovery
replication relay.replication
relay_metrics relay.streaming
relay_window relay.publisher
pgoutput relay.replication
replay replay.manager
replay_run replay.runner
replay_plan replay.plan
replay_tally replay.report
replay_fence replay.fence
operations replay.operations
replay_tape replay.runner
effects replay.fence
agenda tasks.scheduler
calls tasks.executor
leases tasks.leases
healing tasks.scheduler
testing testing.in_memory
testing_commit testing.postgres
testing_api testing.api
testing_fuzz testing.fuzz
testing_outbox testing.relay
web web.app
desk web.api
intake web.command_batcher
edge web.middleware
documents web.documents
waiting web.sse
openapi web.openapi
problems web.problems
throttle web.admission
serving web.app
pool web.api
values values
strict_json web.strict_json
problem_types web.problems
idempotency web.idempotency
connections web.connections
crowd web.connection_limits
files file_limits
headers web.headers
conninfo db.conninfo
sqlstate db.sqlstate
consumer_progress consumer.progress
progress observability.progress
degraded observability.degraded
health ops.health
relay_target relay.target
"""
Q = """
shop demo_data
screen console
demo commands.demo
load commands.load
operations commands.operations
orders commands.orders
replay commands.replay
resolve commands.resolve
supervisor commands.stack
asking commands.shared
observer loadtest.observer
undone loadtest.compensation
saga saga.saga_map
saga_checks saga.checks
saga_effects saga.effects
saga_proof saga.proofs
schema schema.lifecycle
schema_published schema.published
schema_rules schema.rules
evidence stack.diagnostics
journal stack.logs
inspection stack.usage
topics stack.topics
stack.core stack.stack
stack.problems stack.errors
stack.places stack.paths
meters stack.usage
stack.checklist stack.stack
stack.parts stack.stack
stack.ending stack.stack
stack.kafka stack.servers.kafka
stack.registry stack.servers.registry
stack.postgres stack.servers.postgres
stack.jaeger stack.servers.jaeger
stack.java stack.servers.jvm
stack.aot stack.servers.aot
stack.fetch stack.servers.artifacts
"""
S = """
wire http_server
routes api
tokens cards
answers http_server
"""
MODULES = {}
for text, old, new in ((C, "chassis", "quadrille"), (Q, "quadrille", "quadrille_cli"), (S, "sandbox", "quadrille_sandbox")):
    for line in text.split("\n"):
        if line.strip():
            a, b = line.split(); MODULES[f"{old}.{a}"] = f"{new}.{b}"
SYMBOLS = {}
def sym(old, names, new):
    for n in names.split(): SYMBOLS[old, n] = new
sym("chassis.commit", "to_json from_json _adapter _ADAPTERS", "quadrille.messages")
sym("chassis.program", "Face", "quadrille.context")
sym("chassis.worker", "Surroundings", "quadrille.context")
sym("chassis.reading", "Decoder F", "quadrille.service")
sym("chassis.listener", "record_of _bytes HEADERS_OF", "quadrille.consumer.deserializer")
sym("chassis.worker", "connection", "quadrille.db.connection")
sym("chassis.pgoutput", "OutboxRow", "quadrille.kafka.headers")
sym("chassis.worker", "Notes", "quadrille.processing.telemetry")
sym("chassis.listener", "Watcher", "quadrille.processing.telemetry")
sym("chassis.relay_window", "Position", "quadrille.relay.replication")
sym("chassis.desk", "Time Document shown plain etag matches unchanged _tags", "quadrille.web.documents")
sym("chassis.documents", "rfc3339", "quadrille.values")
sym("chassis.health", "NotReadyError reason", "quadrille.observability.readiness")
RENAMES = {}
MODNAMES = {}
DOCS = {
"quadrille.observability.readiness": "Why a role is not ready, said without a secret.",
"quadrille.avro": "Avro on the wire: events to bytes and back, schemas bounded, ids from the registry.",
"quadrille.consumer": "The consumer: one worker process reads topics from its own positions and hands batches on.",
"quadrille.db": "The service's database: connections, tables with their migrations, the audit chain, retention.",
"quadrille.gateway": "Calls to the outside: a circuit breaker behind a bulkhead, and an HTTP client that knows no retry.",
"quadrille.kafka": "Kafka: client settings with their reasons, topics and their identities, CloudEvents headers.",
"quadrille.observability": "Logs, metrics and traces.",
"quadrille.ops": "The ops port of every role: health, metrics, and what an operator may ask.",
"quadrille.processing": "Batch processing: inputs, state, inbox, outbox and positions in one transaction.",
"quadrille.relay": "The relay: outbox rows from the write-ahead log to Kafka.",
"quadrille.replay": "Replay: a topic read again under a group of its own, effects fenced.",
"quadrille.tasks": "The task scheduler: intents and timers, leased, executed and recorded.",
"quadrille.testing": "For tests of services: handlers in memory, stores on Postgres, APIs, fuzzing, relays.",
"quadrille.web": "The HTTP API: admission, idempotency, problems, documents, server-sent events.",
"quadrille_cli.commands": "The commands of `quadrille`, one file each.",
"quadrille_cli.loadtest": "Load: what is observed while orders are placed.",
"quadrille_cli.saga": "The saga as handlers' signatures tell it: maps, checks, proofs.",
"quadrille_cli.schema": "The schemas' life: rules, published versions, registration.",
"quadrille_cli.stack.servers": "The servers of the local stack: Kafka, registry, Postgres, Jaeger, and what they run on.",
}
TEST_NAMES = {"relay_kafka": "targets", "relay_refused": "refused_rows", "relay_scan": "scan", "trace": "trace_context"}
TEST_ROOMS = {"web": "connections", "db": "conninfo sqlstate", "observability": "degraded progress trace", "ops": "health", "relay": "relay_kafka relay_refused relay_scan", "consumer": "stalls"}
RENAMES["chassis.tally", "Outcome"] = "SagaOutcome"
MODNAMES.update({})
def ren(old, pairs):
    for a, b in (x.split(">") for x in pairs.split()): RENAMES["chassis." + old, a] = b
ren("words", "Fact>Event Answer>Result Said>Emitted")
ren("registry", "Reaction>HandlerSpec Reactions>HandlerRegistry")
ren("inputs", "Input>Envelope Seen>Duplicate Done>Handled Withheld>EffectBlocked Entry>LeasedIntent Origin>OffsetRange")
ren("envelope", "Envelope>CloudEvent Malformed>MalformedHeadersError")
ren("ledger", "Opening>BatchReads History>BatchState Told>PendingWrites Said>OutboxRecord Promise>TaskRecord Fenced>FencedError ADD_AGENDA>ADD_TASKS END_AGENDA>END_TASKS HOLD_AGENDA>HOLD_TASKS ADD_FACTS>ADD_EVENTS _add_facts>_add_events _add_promises>_add_tasks")
ren("commit", "commit>process_batch Gate>EffectGuard _together>_process _alone>_process_single _blame>_failure_outcome _tell>_collect _hand_on>_lease_now _fact>_event _promise>_task _Told>_PendingWrites _react>_dispatch")
ren("agenda", "Agenda>TaskScheduler")
ren("calls", "Calls>IntentExecutor")
ren("leases", "Postponed>Rescheduled postpone>reschedule POSTPONE>RESCHEDULE")
ren("healing", "Healing>BreakerRecovery")
ren("outside", "Errand>IntentPolicy Outside>Gateway Ruling>Decision Transient>TransientError")
ren("listener", "Listener>ConsumerLoop AWAY>RETRIABLE Watcher>Observer Ears>ConsumerPorts")
ren("worker", "Notes>Telemetry")
ren("logs", "Seldom>ThrottledLog")
ren("standing", "Standing>Assignment")
ren("silence", "Pulse>HeartbeatMonitor")
ren("desk", "Desk>Api desk_of>api_of AtDesk>TheApi")
ren("edge", "Edge>RequestMiddleware Call>RequestContext")
ren("intake", "Intake>CommandBatcher")
ren("throttle", "Gate>AdmissionControl Seen>AdmissionState")
ren("tally", "Tally>SagaOutcomes")
ren("replay_tally", "Tally>ReplayReport tally_of>report_of _TALLY>_REPORT")
ren("replay_tape", "Tape>RangeReader Taken>ReadRecord _taken>_read_record Gone>RecordsGoneError")
ren("replay_plan", "Plan>ReplayPlan")
ren("operators", "Deed>OperatorAction undo_deeds>compensation_actions _Deeded>_ActionDone")
ren("ops", "Ops>OpsServer")
ren("ops_routes", "Asked>OpsRequest Told>OpsResponse Found>RouteMatch")
ren("relay", "Plan>RelayConfig")
ren("relay_keeper", "Keeper>RelaySession NotReady>NotReadyError")
ren("relay_outlet", "Outlet>Publisher")
ren("relay_pump", "Pump>Streamer")
ren("relay_window", "Window>InFlight DeliveryFailed>DeliveryFailedError")
ren("pgoutput", "Decoder>PgOutputDecoder")
ren("peer", "Peer>HttpClient Unanswered>NoResponseError")
ren("reading", "Reader>RecordDeserializer")
ren("undo", "RetryUndo>RetryCompensation ResolveUndo>ResolveCompensation UndoAnswered>CompensationAnswered")
ren("facts", "Announced>SystemEvent")
ren("projection", "Unsayable>EncodeError Mismatch>SchemaMismatchError")
ren("wire", "Undecodable>DecodeError Reader>DecodeFunction")
ren("breaker", "Refused>CircuitOpenError Call>CallPermit")
ren("waiting", "Event>ServerSentEvent")
ren("strict_json", "Malformed>MalformedJsonError")
ren("topics", "Stopped>StoppedError")
ren("schema_ids", "RegistryChanged>RegistryChangedError NotRegistered>NotRegisteredError")
ren("schema_registry", "RegistryUnavailable>RegistryUnavailableError")
ren("schemas", "UnsafeSchema>UnsafeSchemaError")
ren("rows", "NotLoaded>NotLoadedError")
ren("settings", "Refusal>SettingsError")

FACES = {"quadrille.stack"}

PROSE = {  # in docstrings and comments: names of classes that are no English words there
 "Undecodable": "DecodeError", "Unsayable": "EncodeError", "Mismatch": "SchemaMismatchError", "Transient": "TransientError", "Stopped": "StoppedError",
 "NotReady": "NotReadyError", "NotLoaded": "NotLoadedError", "Fenced": "FencedError", "RegistryUnavailable": "RegistryUnavailableError", "RegistryChanged": "RegistryChangedError",
 "NotRegistered": "NotRegisteredError", "DeliveryFailed": "DeliveryFailedError", "UnsafeSchema": "UnsafeSchemaError", "Unanswered": "NoResponseError", "Reactions": "HandlerRegistry", "Ruling": "Decision",
 "Malformed": "MalformedJsonError",
}
