import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Base64;
import java.util.Map;
import org.apache.avro.generic.GenericRecord;

/**
 * Apicurio's Kafka deserializer, told that ids are Confluent's: a value in base64 a line on standard input, and for each
 * the full name of its schema and its body as JSON on standard output, or what was wrong with it. Argument: the registry.
 */
public final class Reader {
    public static void main(String[] arguments) throws Exception {
        try (var values = new AvroKafkaDeserializer<GenericRecord>();
                var lines = new BufferedReader(new InputStreamReader(System.in))) {
            values.configure(Map.of(
                "apicurio.registry.url", arguments[0],
                "apicurio.registry.as-confluent", "true",
                "apicurio.registry.use-id", "contentId"), false);
            for (String line; (line = lines.readLine()) != null; ) {
                try {
                    GenericRecord found = values.deserialize("any", Base64.getDecoder().decode(line));
                    System.out.println(found.getSchema().getFullName() + "\t" + found);
                } catch (RuntimeException wrong) {
                    System.out.println("refused\t" + wrong);
                }
            }
        }
    }
}
