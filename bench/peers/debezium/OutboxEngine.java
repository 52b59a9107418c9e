import io.debezium.embedded.Connect;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;
import java.io.BufferedReader;
import java.io.FileReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Debezium's embedded engine with its outbox router in front of a Kafka producer, kept warm: one JVM and one producer,
 * a run of the engine for each pair of lines on standard input, `run SLOT` and `stop`.
 *
 * Arguments: the engine's properties, the producer's. The loop is Debezium Server's: send a batch, wait for every
 * acknowledgement, mark the batch. What the router cannot know (three constant headers) is added here.
 */
public final class OutboxEngine {
    private static final byte[][] CONSTANTS = {"1.0".getBytes(), System.getProperty("source", "quadrille/inventory").getBytes(), "application/vnd.confluent.avro".getBytes()};

    public static void main(String[] arguments) throws Exception {
        Properties engine = read(arguments[0]), client = read(arguments[1]);
        try (var producer = new KafkaProducer<>(client, new ByteArraySerializer(), new ByteArraySerializer());
                var orders = new BufferedReader(new InputStreamReader(System.in))) {
            var threads = Executors.newSingleThreadExecutor();
            for (String order; (order = orders.readLine()) != null; ) {
                engine.setProperty("slot.name", order.split(" ")[1]);
                DebeziumEngine<?> running = build(engine, producer);
                Future<?> done = threads.submit(running);
                orders.readLine();
                running.close();
                done.get();
                System.out.println("stopped");
            }
            threads.shutdown();
        }
    }

    private static DebeziumEngine<?> build(Properties settings, KafkaProducer<byte[], byte[]> producer) {
        return DebeziumEngine.create(ChangeEventFormat.of(Connect.class)).using(settings)
            .using(new DebeziumEngine.ConnectorCallback() {
                @Override public void pollingStarted() { System.out.println("started"); }
            })
            .using((success, message, error) -> { if (!success) System.out.println("failed " + message + " " + error); })
            .notifying((batch, committer) -> {
                var refused = new AtomicReference<Exception>();
                for (RecordChangeEvent<SourceRecord> event : batch) {
                    producer.send(record(event.record()), (at, error) -> { if (error != null) refused.set(error); });
                }
                producer.flush();
                if (refused.get() != null) throw new IllegalStateException(refused.get());
                for (RecordChangeEvent<SourceRecord> event : batch) committer.markProcessed(event);
                committer.markBatchFinished();
            }).build();
    }

    private static ProducerRecord<byte[], byte[]> record(SourceRecord source) {
        var made = new ProducerRecord<>(source.topic(), bytes(source.key()), bytes(source.value()));
        for (Header header : source.headers()) made.headers().add(header.key(), bytes(header.value()));
        made.headers().add("ce_specversion", CONSTANTS[0]).add("ce_source", CONSTANTS[1]).add("content-type", CONSTANTS[2]);
        return made;
    }

    private static byte[] bytes(Object value) {
        if (value instanceof byte[] raw) return raw;
        if (value instanceof ByteBuffer buffer) {
            byte[] raw = new byte[buffer.remaining()];
            buffer.duplicate().get(raw);
            return raw;
        }
        return value.toString().getBytes();
    }

    private static Properties read(String file) throws Exception {
        var found = new Properties();
        try (var reader = new FileReader(file)) { found.load(reader); }
        return found;
    }
}
